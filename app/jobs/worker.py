"""The worker process: `dramatiq-gevent app.jobs.worker --processes 1 --threads 50`. Each thread is a greenlet, one job.

Built at import, for that is how Dramatiq is told of a broker and its actors. Several of these processes, on one machine
or many, share the queue. It stops taking jobs at SIGTERM and ends when those it runs have ended; jobs of a worker that
was killed run elsewhere once their lease has passed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from wsgiref.simple_server import WSGIRequestHandler, make_server

import dramatiq
import msgspec
import structlog
from dramatiq.middleware import Middleware, Retries

from app.errors import ConfigError, InvalidRequest, StoreUnavailable
from app.jobs.batch.supervisor import BatchSupervisor
from app.jobs.broker import Broker
from app.jobs.queue import job_object
from app.jobs.runner import JobRunner
from app.net.descriptors import raise_limit
from app.services import Services, build_services
from app.settings import load_settings
from app.store.fsync import fsync_in_thread
from app.store.redis.keys import CALLBACKS_ACTOR, CALLBACKS_QUEUE, DRAMATIQ_NAMESPACE, JOBS_ACTOR, JOBS_QUEUE
from app.store.redis.url import redis_py_client
from app.telemetry.logging import configure_logging
from app.telemetry.metrics import CONTENT_TYPE

log = structlog.get_logger()
_RETRY_MS = 1_000  # before a callback is tried again, doubled each time
_DEAD_LETTERS_MS = 86_400_000


class Lifecycle(Middleware):
    """Builds the runner once Dramatiq has its greenlets, and stops it before they are stopped."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runner: JobRunner | None = None
        self._feeder: BatchSupervisor | None = None
        self._threads: list[threading.Thread] = []

    @property
    def runner(self) -> JobRunner:
        if self._runner is None:
            raise RuntimeError("the worker has not booted")
        return self._runner

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        found = self._services
        self._runner = JobRunner(
            jobs=found.queue.jobs,
            pipeline=found.pipeline,
            callers=found.callers,
            config=found.settings.config,
            worker=found.heartbeat.worker_id,
            slots=worker.worker_threads,
            others_wait=lambda: not worker.work_queue.empty(),
        )
        try:
            found.admission.begin()
            _, redis_bytes = found.redis.memory()
            if 0 < redis_bytes < 2 * found.settings.config.queue.max_bytes:
                log.warning("queue_max_bytes_too_large", redis_maxmemory=redis_bytes, expected="half of it at most")
        except StoreUnavailable as exc:
            log.warning("queue_unavailable", reason=exc.message)
        self._feeder = BatchSupervisor(
            queue=found.queue,
            callers=found.callers,
            batches=found.batches,
            files=found.files,
            config=found.settings.config,
            directory=found.settings.data_dir / "batches",
            sync=fsync_in_thread,
            check=partial(found.installation.check, files=True),
        )
        for name, work in (("beat", self._runner.keep_beating), ("feeder", self._feeder.run)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        if found.settings.worker_port:
            _serve_metrics(found.settings.host, found.settings.worker_port, found)
        log.info("worker_started", slots=worker.worker_threads)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self.runner.stop()
        if self._feeder is not None:
            self._feeder.stop()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        for thread in self._threads:
            thread.join(5)
        self._services.close()
        log.info("worker_stopped")


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """A scrape is no event."""


def _serve_metrics(host: str, port: int, found: Services) -> None:
    def application(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", CONTENT_TYPE)])
        return [found.metrics.render(found.system.figures())]

    server = make_server(host, port, application, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _build() -> Services:
    raise_limit()
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.env == "production", settings.secrets)
        services = build_services(settings)
        try:
            services.installation.check(files=True)
        except StoreUnavailable as exc:  # the feeder waits for it
            log.warning("installation_unchecked", reason=exc.message)
        return services
    except ConfigError as exc:
        print(exc, file=sys.stderr, flush=True)
        os._exit(1)  # Dramatiq would print where in its own code that was


services = _build()
_lifecycle = Lifecycle(services)
broker = Broker(
    client=redis_py_client(services.settings.redis_url, socket_timeout=5, socket_connect_timeout=2),
    namespace=DRAMATIQ_NAMESPACE,
    middleware=[Retries(), _lifecycle],
    heartbeat_timeout=int(services.settings.config.queue.lease_s * 1000),
    dead_message_ttl=_DEAD_LETTERS_MS,
    maintenance_chance=1_000_000,  # always: a bell in a dead worker's hand must not wait for luck
)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name=JOBS_ACTOR, queue_name=JOBS_QUEUE, max_retries=0)
def run_jobs() -> None:
    _lifecycle.runner.run_jobs()


@dramatiq.actor(
    actor_name=CALLBACKS_ACTOR,
    queue_name=CALLBACKS_QUEUE,
    min_backoff=_RETRY_MS,
    max_retries=services.settings.config.queue.callback_attempts - 1,
)
def call_back(job_id: str, owner: str) -> None:
    """Tells the job's callback URL how it ended. An exception has Dramatiq try again."""
    shown = services.queue.jobs.status(job_id, owner)
    if shown is None or not shown.callback_url:
        return  # its result has expired
    event = {"type": f"request.{shown.state}", "created_at": int(shown.finished or 0), "data": job_object(shown)}
    try:
        services.callbacks.deliver(
            shown.callback_url.decode(), f"evt_{job_id}", msgspec.json.encode(event), now=time.time()
        )
    except InvalidRequest as exc:
        log.warning("callback_refused", job_id=job_id, reason=exc.message)
        return
    log.info("callback_delivered", job_id=job_id)
