"""A worker's part of the queue: claim the next job, run it, say how it ended; and show a sign of life meanwhile."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import structlog

from app.config.gateway import GatewayConfig
from app.domain.charges import ChargedAttempt
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.identity import Scope
from app.domain.money import format_usd
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import (
    ClientGone,
    Forbidden,
    GatewayError,
    QueueFull,
    QueueTimeout,
    StoreUnavailable,
    UpstreamError,
    UpstreamTimeout,
)
from app.gateway.call import Reply
from app.gateway.callers import Callers
from app.gateway.deferred import DeferredCall
from app.gateway.pipeline import Pipeline
from app.providers.base import CancelToken
from app.store.job_records import Job
from app.store.jobs import Jobs

log = structlog.get_logger()
_BEAT_S = 0.5  # how soon a running job notices that it was cancelled
_SAY_AGAIN_S = (0.2, 5.0)
_ROOM_S = (0.2, 0.4, 0.8)  # pauses in which room for an answer may come about
_NO_ROOM = (
    "The request was answered, and is charged, but there was no room to keep its answer: this key's requests and "
    "results take all that the queue has left for it, or the server's memory is full."
)
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Attempt:
    """A job that runs here. `lost`: another worker has it now, and will end its call."""

    cancel: CancelToken = field(default_factory=CancelToken)
    lost: bool = False


class _Ended(NamedTuple):
    """How an attempt ended: the job's state and fields from now on, and for how long that stays."""

    state: str
    fields: dict[str, str | bytes | int]
    keep_s: float


class JobRunner:
    """Runs jobs until told to stop.

    `others_wait` tells whether Dramatiq has other messages for this process.
    """

    def __init__(
        self,
        *,
        jobs: Jobs,
        pipeline: Pipeline,
        callers: Callers,
        config: GatewayConfig,
        worker: str,
        slots: int,
        others_wait: Callable[[], bool],
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._pipeline = pipeline
        self._callers = callers
        self._config = config
        self._worker = worker
        self._slots = slots
        self._others_wait = others_wait
        self._clock = clock
        self._pause = pause
        # By job and number: a job that was given up for lost may come back while its first attempt still runs.
        self._running: dict[tuple[str, int], _Attempt] = {}
        self._unanswered: set[str] = set()  # claims, by their names
        self._stopping = threading.Event()

    def run_jobs(self) -> None:
        """Runs jobs one after the other until there is none to run, or other messages want this greenlet."""
        while not self._stopping.is_set():
            try:
                job = self._jobs.claim(self._worker, self._config.timeouts.total_s + 5, name := secrets.token_hex(8))
            except StoreUnavailable as exc:
                self._unanswered.add(name)
                log.warning("queue_unavailable", reason=exc.message)
                return  # the next beat rings again
            if job is None:
                return
            self._run(job)
            if self._others_wait():
                return

    def keep_beating(self) -> None:
        """Until `stop`, and then until the last job has ended."""
        try:
            log.info("queue_recounted", bytes=self._jobs.recount())
        except StoreUnavailable as exc:
            log.warning("queue_unavailable", reason=exc.message)
        while not self._stopping.is_set() or self._running:
            try:
                self.beat()
            except StoreUnavailable as exc:
                log.warning("queue_beat_failed", reason=exc.message)
            except Exception as exc:  # boundary: without a beat every job of this worker would count as lost
                log.error("unexpected_error", exc_info=exc)
            if self._stopping.wait(_BEAT_S):
                self._pause(_BEAT_S)
        try:
            self._jobs.remove_worker(self._worker, self._slots)
        except StoreUnavailable:
            pass  # forgotten after a minute anyway

    def beat(self) -> None:
        unanswered = list(self._unanswered)
        told = self._jobs.beat(self._worker, self._slots, list(self._running), unanswered)
        self._unanswered.difference_update(unanswered)
        for job_id, number, why in told.attempts_to_end:
            attempt = self._running.get((job_id, number))
            if attempt is not None:
                attempt.lost = attempt.lost or why == "lost"
                attempt.cancel.cancel()
        for job_id, held in told.jobs_to_settle:
            self._pipeline.abandon(DeferredCall.decode(held), "aborted", ClientGone.status)
            self._jobs.mark_settled(job_id)
            log.warning("job_settled_late", job_id=job_id)

    def stop(self) -> None:
        """Takes no further job; those that run may end."""
        self._stopping.set()

    def _run(self, job: Job) -> None:
        attempt = self._running[job.id, job.attempt] = _Attempt()
        log.info("job_started", job_id=job.id, attempt=job.attempt)
        try:
            ended = self._outcome(job, _held(job), attempt)
            state = self._finish(job, ended)
            if state == "full":
                ended = _not_kept(ended)
                log.warning("job_answer_not_kept", job_id=job.id, key_id=job.owner)
                state = self._finish(job, ended)
            if state == ended.state:
                log.info("job_ended", job_id=job.id, state=state, attempt=job.attempt)
            else:
                log.warning("job_taken_over", job_id=job.id, attempt=job.attempt)
        finally:
            del self._running[job.id, job.attempt]

    def _outcome(self, job: Job, held: DeferredCall, attempt: _Attempt) -> _Ended:
        """How the attempt ended. One that is put off leaves what it came to in `held`, for the next one."""
        keep_s = max(self._config.queue.result_ttl_s, job.keep_s)
        try:
            reply = self._reply(job, held, attempt)
        except ClientGone:
            return _Ended("cancelled", {}, keep_s)
        except GatewayError as exc:
            fields: dict[str, str | bytes | int] = {"error": _error(exc), "http_status": exc.status}
            if self._stays_open(job, attempt, exc):
                pause_s = self._config.queue.retry_backoff_s * 2 ** (job.attempt - 1)
                fields["held"] = held.encode()
                return _Ended("queued", fields, max(pause_s, min(exc.retry_after_s or 0.0, MAX_RETRY_AFTER_S)))
            return _Ended("failed", fields, keep_s)
        except Exception as exc:  # boundary: a bug ends this job, and no other
            log.error("unexpected_error", job_id=job.id, exc_info=exc)
            error = _error(GatewayError("The server had an error while processing your request."))
            return _Ended("failed", {"error": error, "http_status": 500}, keep_s)
        return _Ended(
            "completed", {"response": reply.body, "http_status": 200, "about": _about(reply), "error": ""}, keep_s
        )

    def _reply(self, job: Job, held: DeferredCall, attempt: _Attempt) -> Reply:
        queue = self._config.queue
        if job.refused:
            self._pipeline.cancel(held)
            raise ClientGone("It was refused: its submission got no answer in time.")
        if job.cancelled:
            self._pipeline.abandon(held, "aborted", ClientGone.status)
            raise ClientGone("Cancelled.")
        if job.attempt > queue.max_attempts:
            self._pipeline.abandon(held, "error", 500)
            raise GatewayError(f"The request was tried {queue.max_attempts} times; each time its worker died.")
        if self._clock() - job.submitted > queue.max_wait_s:
            self._pipeline.abandon(held, "error", UpstreamTimeout.status)
            raise QueueTimeout("The request waited too long in the queue.", provider="", kind="timeout_total")
        try:
            caller = self._callers.by_hash(job.key_hash)
            if not caller.has(Scope.CHAT):
                raise Forbidden("This API key may not use the endpoint any more.")
        except GatewayError as exc:
            if not self._stays_open(job, attempt, exc):
                self._pipeline.abandon(held, "error", exc.status)
            raise
        parsed = (ChatRequest if job.endpoint == "chat.completions" else EmbedRequest).parse(job.request)
        return self._pipeline.resume(
            caller, parsed, held, attempt.cancel, stays_open=lambda exc: self._stays_open(job, attempt, exc)
        )

    def _stays_open(self, job: Job, attempt: _Attempt, exc: GatewayError) -> bool:
        """Whether the call goes on after this error: elsewhere, or later."""
        if attempt.lost:
            return True
        again = (isinstance(exc, UpstreamError) and exc.fall_back) or isinstance(exc, StoreUnavailable)
        return again and job.attempt < self._config.queue.max_attempts

    def _finish(self, job: Job, ended: _Ended) -> str:
        """Says how the job ended, also to a Redis that is away for a while: its answer is paid for.

        Returns the job's state now; "full" if there is no room for the answer; "" if Redis stays away."""
        wait_s, longest_s = _SAY_AGAIN_S
        deadline = self._clock() + self._config.queue.max_wait_s
        room = iter(_ROOM_S)
        while True:
            try:
                state = self._jobs.finish(job, ended.state, ended.fields, keep_s=ended.keep_s)
                if state != "full" or (pause_s := next(room, None)) is None:
                    return state
            except StoreUnavailable:
                if self._clock() >= deadline or self._stopping.is_set():
                    return ""
                pause_s, wait_s = wait_s, min(wait_s * 2, longest_s)
            self._pause(pause_s)


def _held(job: Job) -> DeferredCall:
    """What the job holds. An attempt that ended with its worker may be billed: it is charged what is likely."""
    held = DeferredCall.decode(job.deferred_call)
    row = held.row
    lost = ChargedAttempt(
        "", "", "worker_lost", row.prompt_tokens, row.completion_tokens, held.if_lost.nanousd, estimated=True
    )
    held.charged += [lost] * job.unrecorded_attempts
    return held


def _error(exc: GatewayError) -> bytes:
    return _encode({"message": exc.message, "type": exc.type, "param": exc.param, "code": exc.code})


def _about(reply: Reply) -> bytes:
    report = reply.report
    cost_usd = format_usd(report.cost_nanousd or 0)
    about = {"model": report.model, "provider": report.provider, "cache": report.cache, "cost_usd": cost_usd}
    return _encode(about | dict(report.notes))


def _not_kept(ended: _Ended) -> _Ended:
    """Of an answer for which the queue has no room."""
    error = QueueFull(_NO_ROOM)
    fields: dict[str, str | bytes | int] = {"error": _error(error), "http_status": error.status}
    return _Ended("failed", fields, ended.keep_s)
