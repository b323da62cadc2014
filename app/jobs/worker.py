"""Queue worker process: `dramatiq-gevent app.jobs.worker --processes 1 --threads 50`. A thread is a greenlet, one job.

Everything is built at import, since Dramatiq finds a broker and its actors that way. Several of these processes, on one
machine or many, share the queue. At SIGTERM a process claims no further job and ends when those that it runs have
ended; jobs of a process that was killed run elsewhere once their lease has passed.
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
from app.jobs.batch.services import BatchServices
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
    """Starts the job runner and the batch supervisor once Dramatiq has its greenlets, and stops them before those."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._runner: JobRunner | None = None
        self._supervisor: BatchSupervisor | None = None
        self._threads: list[threading.Thread] = []

    @property
    def runner(self) -> JobRunner:
        if self._runner is None:
            raise RuntimeError("the queue worker has not booted")
        return self._runner

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._runner = self._job_runner(worker)
        self._check_redis()
        self._supervisor = self._batch_supervisor()
        for name, work in (("heartbeat", self._runner.send_heartbeats), ("batches", self._supervisor.run)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        settings = self._services.settings
        if settings.worker_port:
            _serve_metrics(settings.host, settings.worker_port, self._services)
        log.info("worker_started", slots=worker.worker_threads)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self.runner.stop()
        if self._supervisor is not None:
            self._supervisor.stop()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        for thread in self._threads:
            thread.join(5)
        self._services.close()
        log.info("worker_stopped")

    def _job_runner(self, worker: dramatiq.Worker) -> JobRunner:
        return JobRunner(
            jobs=self._services.queue.jobs,
            pipeline=self._services.pipeline,
            callers=self._services.callers,
            config=self._services.settings.config,
            worker_id=self._services.heartbeat.worker_id,
            slots=worker.worker_threads,
            has_other_messages=lambda: not worker.work_queue.empty(),
        )

    def _batch_supervisor(self) -> BatchSupervisor:
        services = BatchServices(
            queue=self._services.queue,
            callers=self._services.callers,
            batches=self._services.batches,
            files=self._services.files,
            config=self._services.settings.config,
            sync=fsync_in_thread,
        )
        return BatchSupervisor(
            services,
            results_dir=self._services.settings.data_dir / "batches",
            check=partial(self._services.installation.check, files=True),
        )

    def _check_redis(self) -> None:
        """Announces this process, and warns of a Redis that is too small for the queue."""
        try:
            self._services.admission.begin()
            _, redis_bytes = self._services.redis.memory()
            if 0 < redis_bytes < 2 * self._services.settings.config.queue.max_bytes:
                log.warning("queue_max_bytes_too_large", redis_maxmemory=redis_bytes, expected="half of it at most")
        except StoreUnavailable as exc:
            log.warning("queue_unavailable", reason=exc.message)


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """A scrape is no event."""


def _serve_metrics(host: str, port: int, found: Services) -> None:
    def application(environ: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", CONTENT_TYPE)])
        return [found.metrics.render(found.system.figures())]

    server = make_server(host, port, application, handler_class=_QuietHandler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _build() -> Services:
    raise_limit()
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.env == "production", settings.secrets)
        services = build_services(settings)
        try:
            services.installation.check(files=True)
        except StoreUnavailable as exc:  # the batch supervisor waits for it
            log.warning("installation_unchecked", reason=exc.message)
        return services
    except ConfigError as exc:
        print(exc, file=sys.stderr, flush=True)
        os._exit(1)  # without Dramatiq's traceback, which shows only its own code


services = _build()
_lifecycle = Lifecycle(services)
broker = Broker(
    client=redis_py_client(services.settings.redis_url, socket_timeout=5, socket_connect_timeout=2),
    namespace=DRAMATIQ_NAMESPACE,
    middleware=[Retries(), _lifecycle],
    heartbeat_timeout=int(services.settings.config.queue.lease_s * 1000),
    dead_message_ttl=_DEAD_LETTERS_MS,
    maintenance_chance=1_000_000,  # always: a wake-up message that a dead worker had taken must not wait for luck
)
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name=JOBS_ACTOR, queue_name=JOBS_QUEUE, max_retries=0)
def run_jobs() -> None:
    """Answers a wake-up message: runs jobs until there is none."""
    _lifecycle.runner.run_jobs()


@dramatiq.actor(
    actor_name=CALLBACKS_ACTOR,
    queue_name=CALLBACKS_QUEUE,
    min_backoff=_RETRY_MS,
    max_retries=services.settings.config.queue.callback_attempts - 1,
)
def call_back(job_id: str, owner: str) -> None:
    """Delivers the result of a job to its callback URL. An exception has Dramatiq try again."""
    status = services.queue.jobs.status(job_id, owner)
    if status is None or not status.callback_url:
        return  # its result has expired
    event = {"type": f"request.{status.state}", "created_at": int(status.finished or 0), "data": job_object(status)}
    url, body = status.callback_url.decode(), msgspec.json.encode(event)
    try:
        services.callbacks.deliver(url, f"evt_{job_id}", body, now=time.time())
    except InvalidRequest as exc:
        log.warning("callback_refused", job_id=job_id, reason=exc.message)
        return
    log.info("callback_delivered", job_id=job_id)
