"""Job queue for its callers: submit a call, read its status, cancel it; and a job as a JSON object.

A job is a call whose admission happens at once and whose answer is fetched later. Limits and budget are reserved when
it is submitted, and settled once, when it ends: by the queue worker that ran it, or here if it never ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from app.config.gateway import GatewayConfig
from app.domain.chat import EmbedRequest
from app.domain.generation import GenerationRequest
from app.domain.identity import Caller
from app.errors import ClientGone, Conflict, NotFound, NotReady, QueueFull, StoreUnavailable
from app.gateway.admission import Admission
from app.gateway.call import CallContext
from app.gateway.deferred import DeferredCall
from app.gateway.heartbeat import Heartbeat
from app.gateway.pipeline import Pipeline, endpoint_of
from app.store.job_records import JobStatus, QueueDepth
from app.store.jobs import Jobs
from app.store.redis.client import Redis
from app.store.redis.keys import IDEMPOTENCY, QUEUE, reservation_key, reservations_key

_IDEMPOTENCY_TTL_S = 86_400
_FINAL_STATES = frozenset({"completed", "failed", "cancelled"})
_SHARE_FULL = (
    "This key's requests and results take all the room in the queue that is left for it. Please try again later."
)
_UNKNOWN = "There is no such request, or it has expired."
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Submission(NamedTuple):
    """`repeated`: the caller had submitted it before, under the same Idempotency-Key."""

    job_id: str
    repeated: bool


class _IdempotencyEntry(NamedTuple):
    """The Redis key and value that remember a submission; both empty for one without an Idempotency-Key."""

    redis_key: str = ""
    value: str = ""


class JobQueue:
    """Raises `StoreUnavailable` besides what each method names."""

    def __init__(
        self, *, config: GatewayConfig, redis: Redis, pipeline: Pipeline, admission: Admission, heartbeat: Heartbeat
    ) -> None:
        queue = config.queue
        self._config = queue
        # The reservation must outlast all attempts.
        attempt_s = config.timeouts.total_s + 5 + queue.lease_s
        self._reserved_s = queue.max_wait_s + queue.max_attempts * attempt_s
        self._pipeline = pipeline
        self._admission = admission
        self._heartbeat = heartbeat
        self.jobs = Jobs(redis=redis, max_jobs=queue.max_jobs, max_bytes=queue.max_bytes, lease_s=queue.lease_s)

    @property
    def capacity(self) -> int:
        """The most jobs that may wait."""
        return self._config.max_jobs

    def submit(
        self,
        caller: Caller,
        request: GenerationRequest | EmbedRequest,
        context: CallContext,
        *,
        idempotency_key: str = "",
        callback_url: str = "",
        repeatable: bool = False,
        keep_s: int = 0,
    ) -> Submission:
        """Takes a call into the queue; `context.call_id` is the job's id.

        `repeatable`: should this process die in here, another one submits the call again under the same id, so its
        reservation must not be lost with the process. `keep_s`: how long to keep the result, if longer than others'.

        Raises what admission raises, `QueueFull`, and `Conflict` when the key was used for another request.
        """
        job_id = context.call_id
        entry = _idempotency_entry(caller, idempotency_key, request.raw, job_id)
        known, full = self.jobs.precheck(entry.redis_key)
        if known is not None:
            return _repeated(known, entry)
        if full:
            raise _full()
        if isinstance(request, GenerationRequest):
            request, context = self._pipeline.preprocess(caller, request, context)
        owner = QUEUE if repeatable else self._heartbeat.worker_id
        deferred = self._pipeline.defer(caller, request, context, for_s=self._reserved_s, owner=owner)
        outcome = "refused"
        try:
            fields = self._fields(caller, request, deferred) | {"callback_url": callback_url, "keep_s": keep_s}
            outcome, known = self._enqueue(job_id, caller.key_id, fields, len(request.raw), entry, owner)
        finally:
            if outcome != "queued":
                self._admission.cancel(deferred.reservation(owner))
        if outcome == "known":
            return _repeated(known, entry)
        if outcome != "queued":
            raise _refusal(outcome)
        return Submission(job_id, repeated=False)

    def _fields(
        self, caller: Caller, request: GenerationRequest | EmbedRequest, deferred: DeferredCall
    ) -> dict[str, str | bytes | int]:
        """The fields of a job in Redis."""
        plan = self._admission.plan(caller)
        return {
            "key_hash": caller.key_hash,
            "endpoint": endpoint_of(request),
            "model": deferred.row.model,
            "request": request.raw,
            "held": deferred.encode(),
            "priority": plan.priority,
            "most_at_once": plan.concurrency or "",
        }

    def _enqueue(
        self,
        job_id: str,
        owner: str,
        fields: dict[str, str | bytes | int],
        size: int,
        entry: _IdempotencyEntry,
        reservation_owner: str,
    ) -> tuple[str, bytes]:
        """Moves the reservation from those of `reservation_owner` to those of the queue, together with the job."""
        return self.jobs.submit(
            job_id,
            owner,
            fields,
            size=size,
            from_reservations=reservations_key(reservation_owner),
            to_reservations=reservations_key(QUEUE),
            reservation=reservation_key(job_id),
            held_s=self._reserved_s,
            idempotency=entry.redis_key,
            remember=entry.value,
            remember_s=_IDEMPOTENCY_TTL_S,
        )

    def submitted(self, key_id: str, idempotency_keys: Sequence[str]) -> list[str | None]:
        """Returns the ids of the jobs that were submitted under these keys; None for a key that is not remembered."""
        values = self.jobs.idempotency_entries([_idempotency_redis_key(key_id, key) for key in idempotency_keys])
        return [None if value is None else value.decode().partition(":")[2] for value in values]

    def forget(self, key_id: str, jobs: Mapping[str, str]) -> None:
        """Drops jobs that have ended, by the idempotency key that each was submitted under."""
        self.jobs.forget(list(jobs.values()), [_idempotency_redis_key(key_id, key) for key in jobs])

    def status(self, caller: Caller, job_id: str, seen: str = "") -> JobStatus:
        """Raises `NotFound` for a job that is unknown, expired or another key's. `seen`: ETags that the caller has."""
        status = self.jobs.status(job_id, caller.key_id, seen)
        if status is None:
            raise NotFound(_UNKNOWN)
        return status

    def cancel(self, caller: Caller, job_id: str) -> JobStatus:
        """Cancels a job: at once when it waits; when it runs, its queue worker ends it within a second.

        Raises `NotFound`, and `Conflict` when it has ended.
        """
        state, encoded_call = self.jobs.cancel(job_id, caller.key_id, keep_s=self._config.result_ttl_s)
        if state == "unknown":
            raise NotFound(_UNKNOWN)
        if encoded_call is not None:
            self._settle(job_id, encoded_call)
        elif state in _FINAL_STATES:
            raise Conflict(f"The request has ended: it is {state}.")
        return self.status(caller, job_id)

    def depth(self) -> QueueDepth:
        """Returns how many jobs wait and run, of all keys."""
        return self.jobs.depth()

    def _settle(self, job_id: str, encoded_call: bytes) -> None:
        if encoded_call:
            self._pipeline.abandon(DeferredCall.decode(encoded_call), "aborted", ClientGone.status)
        try:
            self.jobs.mark_settled(job_id)
        except StoreUnavailable:
            pass  # a queue worker settles it once more, which does nothing


def job_object(status: JobStatus) -> dict[str, Any]:
    """Returns a job as its owner sees it, in JSON's types. Nothing in it changes while nothing happens."""
    job: dict[str, Any] = {"request_id": status.id, "status": status.state, "created_at": _timestamp(status.submitted)}
    ended = status.state in _FINAL_STATES
    if status.state == "queued":
        wait_s = estimated_wait_s(status)
        job |= {"position": status.jobs_ahead + 1, "estimated_wait_s": None if wait_s is None else round(wait_s, 1)}
    if status.started is not None and status.state != "queued":
        queued_ms = round((status.started - status.submitted) * 1000)
        job |= {"started_at": _timestamp(status.started), "queued_ms": queued_ms}
        if status.finished is not None and ended:
            run_ms = round((status.finished - status.started) * 1000)
            job |= {"finished_at": _timestamp(status.finished), "run_ms": run_ms}
    if status.attempts:
        job["attempts"] = status.attempts
    if status.state == "completed":
        job |= _decode(status.about or b"{}")
        job["response"] = msgspec.Raw(status.response or b"null")
    elif status.error and status.state != "cancelled":
        job["error"] = msgspec.Raw(status.error)
    return job


def estimated_wait_s(status: JobStatus) -> float | None:
    """Returns the time until a waiting job runs; None while no queue worker is there, or none has run a job yet."""
    if not status.slots or status.mean_duration_s is None:
        return None
    return status.jobs_ahead / status.slots * status.mean_duration_s


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _idempotency_entry(caller: Caller, key: str, body: bytes, job_id: str) -> _IdempotencyEntry:
    """The same Idempotency-Key of two API keys is two entries (docs/clients.md, bug 7)."""
    if not key:
        return _IdempotencyEntry()
    return _IdempotencyEntry(_idempotency_redis_key(caller.key_id, key), f"{hashlib.sha256(body).hexdigest()}:{job_id}")


def _idempotency_redis_key(key_id: str, key: str) -> str:
    return f"{IDEMPOTENCY}{key_id}:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _repeated(known: bytes, entry: _IdempotencyEntry) -> Submission:
    body_hash, _, job_id = known.decode().partition(":")
    if body_hash != entry.value.partition(":")[0]:
        raise Conflict("This Idempotency-Key was used for another request.", param="Idempotency-Key")
    return Submission(job_id, repeated=True)


def _refusal(outcome: str) -> NotReady:
    if outcome == "full":
        return _full()
    if outcome == "share":
        return QueueFull(_SHARE_FULL, retry_after_s=5)
    return NotReady("The request could not be queued. Please try again.", retry_after_s=1)


def _full() -> QueueFull:
    return QueueFull("The queue is full. Please try again later.", retry_after_s=5)
