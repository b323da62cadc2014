"""Job runner of a queue worker: claims jobs, runs each, records its result, and sends heartbeats meanwhile."""

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
)
from app.gateway.call import Reply
from app.gateway.callers import Callers
from app.gateway.deferred import DeferredCall
from app.gateway.pipeline import Pipeline
from app.providers.base import CancelToken
from app.store.job_records import Job
from app.store.jobs import Jobs

log = structlog.get_logger()
_HEARTBEAT_S = 0.5  # how soon a running job notices that it was cancelled
_RECORD_AGAIN_S = (0.2, 5.0)  # the first pause while Redis is away, and the longest
_ROOM_PAUSES_S = (0.2, 0.4, 0.8)  # in which room for an answer may come about
_NO_ROOM = (
    "The request was answered, and is charged, but there was no room to keep its answer: this key's requests and "
    "results take all that the queue has left for it, or the server's memory is full."
)
_encode = msgspec.json.Encoder().encode
_Fields = dict[str, str | bytes | int]


@dataclass(slots=True)  # not frozen: the heartbeat finds out that the job was lost
class _Attempt:
    """A job that runs here. `lost`: another queue worker has it now, and will end its call."""

    cancel: CancelToken = field(default_factory=CancelToken)
    lost: bool = False


class _Result(NamedTuple):
    """An attempt's result: the job's state and fields from now on, and for how long that stays."""

    state: str
    fields: _Fields
    keep_s: float


class JobRunner:
    """Runs jobs until told to stop. `has_other_messages` tells whether Dramatiq has other messages for this process."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        pipeline: Pipeline,
        callers: Callers,
        config: GatewayConfig,
        worker_id: str,
        slots: int,
        has_other_messages: Callable[[], bool],
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._pipeline = pipeline
        self._callers = callers
        self._config = config
        self._worker_id = worker_id
        self._slots = slots
        self._has_other_messages = has_other_messages
        self._clock = clock
        self._pause = pause
        # By job and number: a job that was given up for lost may come back while its first attempt still runs.
        self._running: dict[tuple[str, int], _Attempt] = {}
        self._unanswered_claims: set[str] = set()  # by their names
        self._stopping = threading.Event()

    def run_jobs(self) -> None:
        """Runs jobs one after the other until there is none to run, or other messages want this greenlet."""
        while not self._stopping.is_set():
            claim = secrets.token_hex(8)
            try:
                job = self._jobs.claim(self._worker_id, self._config.timeouts.total_s + 5, claim)
            except StoreUnavailable as exc:
                self._unanswered_claims.add(claim)
                log.warning("queue_unavailable", reason=exc.message)
                return  # the next heartbeat wakes a worker again
            if job is None:
                return
            self._run(job)
            if self._has_other_messages():
                return

    def send_heartbeats(self) -> None:
        """Beats until `stop`, and then until the last job has ended."""
        try:
            log.info("queue_recounted", bytes=self._jobs.recount())
        except StoreUnavailable as exc:
            log.warning("queue_unavailable", reason=exc.message)
        while not self._stopping.is_set() or self._running:
            try:
                self.beat()
            except StoreUnavailable as exc:
                log.warning("queue_beat_failed", reason=exc.message)
            except Exception as exc:  # boundary: without a heartbeat every job of this worker would count as lost
                log.error("unexpected_error", exc_info=exc)
            if self._stopping.wait(_HEARTBEAT_S):
                self._pause(_HEARTBEAT_S)
        try:
            self._jobs.remove_worker(self._worker_id, self._slots)
        except StoreUnavailable:
            pass  # forgotten after a minute anyway

    def beat(self) -> None:
        """Sends a heartbeat for the jobs that run here, and does what its reply asks for."""
        unanswered = list(self._unanswered_claims)
        reply = self._jobs.beat(self._worker_id, self._slots, list(self._running), unanswered)
        self._unanswered_claims.difference_update(unanswered)
        for job_id, number, why in reply.attempts_to_end:
            attempt = self._running.get((job_id, number))
            if attempt is not None:
                attempt.lost = attempt.lost or why == "lost"
                attempt.cancel.cancel()
        for job_id, encoded_call in reply.jobs_to_settle:
            self._pipeline.abandon(DeferredCall.decode(encoded_call), "aborted", ClientGone.status)
            self._jobs.mark_settled(job_id)
            log.warning("job_settled_late", job_id=job_id)

    def stop(self) -> None:
        """Claims no further job; those that run may end."""
        self._stopping.set()

    def _run(self, job: Job) -> None:
        attempt = self._running[job.id, job.attempt] = _Attempt()
        log.info("job_started", job_id=job.id, attempt=job.attempt)
        try:
            result = self._result(job, _deferred_call(job), attempt)
            state = self._record(job, result)
            if state == "full":
                result = _without_answer(result)
                log.warning("job_answer_not_kept", job_id=job.id, key_id=job.owner)
                state = self._record(job, result)
            if state == result.state:
                log.info("job_ended", job_id=job.id, state=state, attempt=job.attempt)
            else:
                log.warning("job_taken_over", job_id=job.id, attempt=job.attempt)
        finally:
            del self._running[job.id, job.attempt]

    def _result(self, job: Job, call: DeferredCall, attempt: _Attempt) -> _Result:
        """Runs the attempt. One that is put off leaves its charges in `call`, for the next one."""
        keep_s = max(self._config.queue.result_ttl_s, job.keep_s)
        try:
            reply = self._reply(job, call, attempt)
        except ClientGone:
            return _Result("cancelled", {}, keep_s)
        except GatewayError as exc:
            if self._is_repeated(job, attempt, exc):
                pause_s = self._config.queue.retry_backoff_s * 2 ** (job.attempt - 1)
                fields = _error_fields(exc) | {"held": call.encode()}
                return _Result("queued", fields, max(pause_s, min(exc.retry_after_s or 0.0, MAX_RETRY_AFTER_S)))
            return _Result("failed", _error_fields(exc), keep_s)
        except Exception as exc:  # boundary: a bug ends this job, and no other
            log.error("unexpected_error", job_id=job.id, exc_info=exc)
            error = GatewayError("The server had an error while processing your request.")
            return _Result("failed", _error_fields(error), keep_s)
        fields = {"response": reply.body, "http_status": 200, "about": _about(reply), "error": ""}
        return _Result("completed", fields, keep_s)

    def _reply(self, job: Job, call: DeferredCall, attempt: _Attempt) -> Reply:
        """Makes the call. Raises `ClientGone` for a job that was cancelled, and what ends the attempt."""
        self._check_still_wanted(job, call)
        try:
            caller = self._callers.by_hash(job.key_hash)
            if not caller.has(Scope.CHAT):
                raise Forbidden("This API key may not use the endpoint any more.")
        except GatewayError as exc:
            if not self._is_repeated(job, attempt, exc):
                self._pipeline.abandon(call, "error", exc.status)
            raise
        request = (ChatRequest if job.endpoint == "chat.completions" else EmbedRequest).parse(job.request)
        return self._pipeline.resume(
            caller, request, call, attempt.cancel, stays_open=lambda exc: self._is_repeated(job, attempt, exc)
        )

    def _check_still_wanted(self, job: Job, call: DeferredCall) -> None:
        """Settles the call of a job that is not to be run any more, and raises its error."""
        queue = self._config.queue
        if job.refused:
            self._pipeline.cancel(call)
            raise ClientGone("It was refused: its submission got no answer in time.")
        if job.cancelled:
            self._pipeline.abandon(call, "aborted", ClientGone.status)
            raise ClientGone("Cancelled.")
        if job.attempt > queue.max_attempts:
            self._pipeline.abandon(call, "error", 500)
            raise GatewayError(f"The request was tried {queue.max_attempts} times; each time its worker died.")
        if self._clock() - job.submitted > queue.max_wait_s:
            self._pipeline.abandon(call, "error", QueueTimeout.status)
            raise QueueTimeout("The request waited too long in the queue.", provider="", kind="timeout_total")

    def _is_repeated(self, job: Job, attempt: _Attempt, exc: GatewayError) -> bool:
        """Returns whether the job goes on after this error: elsewhere, or in a later attempt."""
        if attempt.lost:
            return True
        temporary = (isinstance(exc, UpstreamError) and exc.fall_back) or isinstance(exc, StoreUnavailable)
        return temporary and job.attempt < self._config.queue.max_attempts

    def _record(self, job: Job, result: _Result) -> str:
        """Records the result, also in a Redis that is away for a while: its answer is paid for.

        Returns the job's state now; "full" if there is no room for the answer; "" if Redis stays away."""
        wait_s, longest_s = _RECORD_AGAIN_S
        deadline = self._clock() + self._config.queue.max_wait_s
        room_pauses = iter(_ROOM_PAUSES_S)
        while True:
            try:
                state = self._jobs.finish(job, result.state, result.fields, keep_s=result.keep_s)
                if state != "full" or (pause_s := next(room_pauses, None)) is None:
                    return state
            except StoreUnavailable:
                if self._clock() >= deadline or self._stopping.is_set():
                    return ""
                pause_s, wait_s = wait_s, min(wait_s * 2, longest_s)
            self._pause(pause_s)


def _deferred_call(job: Job) -> DeferredCall:
    """The job's call. An attempt that ended with its queue worker may be billed: it is charged what is likely."""
    call = DeferredCall.decode(job.deferred_call)
    row = call.row
    lost = ChargedAttempt(
        "", "", "worker_lost", row.prompt_tokens, row.completion_tokens, call.if_lost.nanousd, estimated=True
    )
    call.charged += [lost] * job.unrecorded_attempts
    return call


def _error_fields(exc: GatewayError) -> _Fields:
    error = {"message": exc.message, "type": exc.type, "param": exc.param, "code": exc.code}
    return {"error": _encode(error), "http_status": exc.status}


def _about(reply: Reply) -> bytes:
    """The part of a completed job that describes its call, as JSON."""
    report = reply.report
    cost_usd = format_usd(report.cost_nanousd or 0)
    about = {"model": report.model, "provider": report.provider, "cache": report.cache, "cost_usd": cost_usd}
    return _encode(about | dict(report.notes))


def _without_answer(result: _Result) -> _Result:
    """The result in place of one for whose answer the queue has no room."""
    return _Result("failed", _error_fields(QueueFull(_NO_ROOM)), result.keep_s)
