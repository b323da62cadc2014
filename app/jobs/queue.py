"""The queue as its users see it: submit a call, ask how it goes, cancel it.

A job is a call whose admission happens at once and whose answer is fetched later. Limits and budget are reserved when
it is submitted, and settled once, when it ends: by the worker that ran it, or here if it never ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from app.config.gateway import GatewayConfig
from app.domain.chat import ChatRequest, EmbedRequest
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

_REMEMBER_S = 86_400
_FINAL = frozenset({"completed", "failed", "cancelled"})
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_SHARE = "This key's requests and results take all the room in the queue that is left for it. Please try again later."
_UNKNOWN = "There is no such request, or it has expired."


class Submission(NamedTuple):
    """`repeated`: the caller had submitted it before, under the same Idempotency-Key."""

    job_id: str
    repeated: bool


class JobQueue:
    """Raises `StoreUnavailable` besides what each method names."""

    def __init__(
        self, *, config: GatewayConfig, redis: Redis, pipeline: Pipeline, admission: Admission, heartbeat: Heartbeat
    ) -> None:
        queue = config.queue
        self._config = queue
        self._call_s = config.timeouts.total_s + 5
        self._pipeline = pipeline
        self._admission = admission
        self._heartbeat = heartbeat
        self.jobs = Jobs(redis=redis, max_jobs=queue.max_jobs, max_bytes=queue.max_bytes, lease_s=queue.lease_s)

    @property
    def capacity(self) -> int:
        return self._config.max_jobs

    def submit(
        self,
        caller: Caller,
        request: ChatRequest | EmbedRequest,
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
        entry, remember = _idempotency(caller, idempotency_key, request.raw, context.call_id)
        known, full = self.jobs.precheck(entry)
        if known is not None:
            return _repeated(known, remember)
        if full:
            raise _full()
        tries = self._config.max_attempts
        held_s = self._config.max_wait_s + tries * (self._call_s + self._config.lease_s)
        if isinstance(request, ChatRequest):
            request, context = self._pipeline.preprocess(caller, request, context)
        owner = QUEUE if repeatable else self._heartbeat.worker_id
        held = self._pipeline.defer(caller, request, context, for_s=held_s, owner=owner)
        outcome = "refused"
        try:
            outcome, known = self.jobs.submit(
                context.call_id,
                caller.key_id,
                {
                    "key_hash": caller.key_hash,
                    "endpoint": endpoint_of(request),
                    "model": held.row.model,
                    "request": request.raw,
                    "held": held.encode(),
                    "priority": self._admission.plan(caller).priority,
                    "most_at_once": self._admission.plan(caller).concurrency or "",
                    "callback_url": callback_url,
                    "keep_s": keep_s,
                },
                size=len(request.raw),
                from_reservations=reservations_key(owner),
                to_reservations=reservations_key(QUEUE),
                reservation=reservation_key(context.call_id),
                held_s=held_s,
                idempotency=entry,
                remember=remember,
                remember_s=_REMEMBER_S,
            )
        finally:
            if outcome != "queued":
                self._admission.cancel(held.reservation(owner))
        if outcome == "known":
            return _repeated(known, remember)
        if outcome == "full":
            raise _full()
        if outcome == "share":
            raise QueueFull(_SHARE, retry_after_s=5)
        if outcome != "queued":
            raise NotReady("The request could not be queued. Please try again.", retry_after_s=1)
        return Submission(context.call_id, repeated=False)

    def submitted(self, key_id: str, idempotency_keys: Sequence[str]) -> list[str | None]:
        """The jobs that were submitted under these keys; None for a key that is not remembered."""
        entries = self.jobs.idempotency_entries([_entry(key_id, key) for key in idempotency_keys])
        return [None if entry is None else entry.decode().partition(":")[2] for entry in entries]

    def forget(self, key_id: str, jobs: Mapping[str, str]) -> None:
        """Drops jobs that have ended, by the idempotency key that each was submitted under."""
        self.jobs.forget(list(jobs.values()), [_entry(key_id, key) for key in jobs])

    def status(self, caller: Caller, job_id: str, seen: str = "") -> JobStatus:
        """Raises `NotFound` for a job that is unknown, expired or another key's. `seen`: tags that the caller knows."""
        shown = self.jobs.status(job_id, caller.key_id, seen)
        if shown is None:
            raise NotFound(_UNKNOWN)
        return shown

    def cancel(self, caller: Caller, job_id: str) -> JobStatus:
        """Cancels a job: at once when it waits; when it runs, its worker does, within a second.

        Raises `NotFound`, and `Conflict` when it has ended.
        """
        state, held = self.jobs.cancel(job_id, caller.key_id, keep_s=self._config.result_ttl_s)
        if state == "unknown":
            raise NotFound(_UNKNOWN)
        if held is not None:
            self._settle(job_id, held)
        elif state in _FINAL:
            raise Conflict(f"The request has ended: it is {state}.")
        return self.status(caller, job_id)

    def _settle(self, job_id: str, held: bytes) -> None:
        if held:
            self._pipeline.abandon(DeferredCall.decode(held), "aborted", ClientGone.status)
        try:
            self.jobs.mark_settled(job_id)
        except StoreUnavailable:
            pass  # a worker settles it once more, which does nothing

    def depth(self) -> QueueDepth:
        return self.jobs.depth()


def job_object(shown: JobStatus) -> dict[str, Any]:
    """A job as its owner sees it, in JSON's types. Nothing in it changes while nothing happens."""
    job: dict[str, Any] = {"request_id": shown.id, "status": shown.state, "created_at": _moment(shown.submitted)}
    if shown.state == "queued":
        wait_s = estimated_wait_s(shown)
        job |= {"position": shown.jobs_ahead + 1, "estimated_wait_s": None if wait_s is None else round(wait_s, 1)}
    if shown.started is not None and shown.state != "queued":
        job |= {"started_at": _moment(shown.started), "queued_ms": round((shown.started - shown.submitted) * 1000)}
        if shown.finished is not None and shown.state in _FINAL:
            job |= {"finished_at": _moment(shown.finished), "run_ms": round((shown.finished - shown.started) * 1000)}
    if shown.attempts:
        job["attempts"] = shown.attempts
    if shown.state == "completed":
        job |= _decode(shown.about or b"{}")
        job["response"] = msgspec.Raw(shown.response or b"null")
    elif shown.error and shown.state != "cancelled":
        job["error"] = msgspec.Raw(shown.error)
    return job


def estimated_wait_s(shown: JobStatus) -> float | None:
    """Until a waiting job runs; None when nobody can tell: no worker is there, or none has run a job yet."""
    if not shown.slots or shown.mean_duration_s is None:
        return None
    return shown.jobs_ahead / shown.slots * shown.mean_duration_s


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _idempotency(caller: Caller, key: str, body: bytes, job_id: str) -> tuple[str, str]:
    """Where an Idempotency-Key is remembered, and as what. Two keys' are two things (docs/clients.md, bug 7)."""
    if not key:
        return "", ""
    return _entry(caller.key_id, key), f"{hashlib.sha256(body).hexdigest()}:{job_id}"


def _entry(key_id: str, key: str) -> str:
    return f"{IDEMPOTENCY}{key_id}:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _repeated(known: bytes, remember: str) -> Submission:
    body, _, job_id = known.decode().partition(":")
    if body != remember.partition(":")[0]:
        raise Conflict("This Idempotency-Key was used for another request.", param="Idempotency-Key")
    return Submission(job_id, repeated=True)


def _full() -> QueueFull:
    return QueueFull("The queue is full. Please try again later.", retry_after_s=5)
