"""The queue in Redis: jobs that wait, whose turn it is, who runs what. Each step is one script (`lua/jobs/`).

Dramatiq's workers are woken by bells: messages that say "there is work", not which. Which job is next is decided when
a worker has a hand free, by `claim`: that is what keeps keys fair to each other. A bell too many finds nothing; one
that is lost is rung again by `beat`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from app.store.redis import Redis
from app.store.rediskeys import NOTHING, RUNNING_CALLS

NAMESPACE = "penstock:dramatiq"
BELLS = "jobs"  # the Dramatiq queue that is listened to
RING = "run_jobs"  # the Dramatiq actor that answers
CALLBACKS, CALL_BACK = "callbacks", "call_back"  # the queue and actor that tell of ended jobs
_JOB, _OF = "penstock:job:", "penstock:queue:of:"
_WAITING, _TURNS, _FACTS = "penstock:queue:waiting", "penstock:queue:turns", "penstock:queue:facts"
_RUNNING, _LATER, _CANCELS = "penstock:queue:running", "penstock:queue:later", "penstock:queue:cancels"
_WORKERS = "penstock:queue:workers"
# What `joblist` reads, too.
JOB, OF, WAITING, TURNS, RUNNING, LATER = _JOB, _OF, _WAITING, _TURNS, _RUNNING, _LATER
_BELLS, _BELL_MESSAGES = f"{NAMESPACE}:{BELLS}", f"{NAMESPACE}:{BELLS}.msgs"
_CALLBACKS, _CALLBACK_MESSAGES = f"{NAMESPACE}:{CALLBACKS}", f"{NAMESPACE}:{CALLBACKS}.msgs"
_DEAD_MS = 5_000  # a worker without a sign of life for this long is not counted any more
_FORGET_MS = 60_000  # … and after this long not even remembered
_SHOWN = (
    "state",
    "submitted",
    "started",
    "finished",
    "attempts",
    "http_status",
    "response",
    "error",
    "about",
    "callback_url",
)
_OUTCOME = ("state", "http_status", "response", "error")
_encode = msgspec.json.Encoder().encode


class Job(NamedTuple):
    """A job as a worker gets it. `attempt` counts from 1; times are Unix seconds."""

    id: str
    attempt: int
    cancelled: bool
    owner: str
    key_hash: str
    endpoint: str
    request: bytes
    held: bytes
    submitted: float
    keep_s: int = 0


class Shown(NamedTuple):
    """What the owner of a job may see. `before` is how many will run first; `slots` how many run at once.

    `tag` names what is shown, as an ETag does. Whoever has seen that is shown no more than the state.
    """

    id: str
    before: int
    slots: int
    mean_s: float | None
    tag: str
    state: str
    submitted: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    http_status: int | None = None
    response: bytes | None = None
    error: bytes | None = None
    about: bytes | None = None
    callback_url: bytes | None = None
    seen: bool = False


class Outcome(NamedTuple):
    """What a job has come to so far."""

    state: str
    http_status: int | None
    response: bytes | None
    error: bytes | None


class Depth(NamedTuple):
    """The queue as a whole."""

    waiting: int
    running: int
    oldest_s: float
    workers: int
    slots: int


class Jobs:
    def __init__(self, *, redis: Redis, most_jobs: int, most_bytes: int, lease_s: float) -> None:
        self._redis = redis
        self._most_jobs, self._most_bytes = most_jobs, most_bytes
        self._lease_ms = int(lease_s * 1000)
        self._submit = redis.script("jobs/submit")
        self._claim = redis.script("jobs/claim")
        self._finish = redis.script("jobs/finish")
        self._cancel = redis.script("jobs/cancel")
        self._status = redis.script("jobs/status")
        self._beat = redis.script("jobs/beat")

    def known(self, idempotency: str) -> tuple[bytes | None, bool]:
        """What was remembered under `idempotency` ("" for none), and whether the queue is full."""
        entry, waiting = self._redis.pipeline([("GET", idempotency or NOTHING), ("ZCARD", _WAITING)])
        return entry, waiting >= self._most_jobs

    def submit(
        self,
        job_id: str,
        owner: str,
        fields: Mapping[str, str | bytes | int],
        *,
        size: int,
        from_reservations: str,
        to_reservations: str,
        reservation: str,
        held_s: float,
        idempotency: str = "",
        remember: str = "",
        remember_s: int = 0,
    ) -> tuple[str, bytes]:
        """Takes the job in. Returns "queued", "full", "gone" (its reservation is settled), or "known" and the entry."""
        keys = [
            _JOB + job_id, _WAITING, _TURNS, _OF + owner, _FACTS, idempotency or NOTHING, from_reservations,
            to_reservations, reservation, _BELLS, _BELL_MESSAGES,
        ]  # fmt: skip
        named = [part for pair in fields.items() for part in pair]
        reply = self._submit(keys, [
            job_id, owner, self._most_jobs, self._most_bytes, size, remember, remember_s * 1000, int(held_s * 1000),
            *_message(BELLS, RING), *named,
        ])  # fmt: skip
        return reply[0].decode(), reply[1] if len(reply) > 1 else b""

    def claim(self, worker: str, call_s: float) -> Job | None:
        """The next job, now this worker's for as long as it beats; None when none may run."""
        keys = [_WAITING, _TURNS, _RUNNING, _FACTS, _BELLS, _BELL_MESSAGES, _CANCELS]
        reply = self._claim(
            keys, [_JOB, _OF, RUNNING_CALLS, self._lease_ms, int(call_s * 1000), worker, *_message(BELLS, RING)]
        )
        if not reply:
            return None
        fields = dict(zip(reply[2::2], reply[3::2], strict=True))
        return Job(
            reply[0].decode(), int(fields[b"attempts"]), bool(reply[1]), fields[b"owner"].decode(),
            fields[b"key_hash"].decode(), fields[b"endpoint"].decode(), fields[b"request"], fields[b"held"],
            int(fields[b"submitted"]) / 1000, int(fields.get(b"keep_s", 0)),
        )  # fmt: skip

    def finish(self, job: Job, state: str, fields: Mapping[str, str | bytes | int], *, keep_s: float) -> bool:
        """Ends this attempt; False if the job was taken from it. `queued`: it runs again after `keep_s`."""
        keys = [_JOB + job.id, _RUNNING, _CANCELS, _FACTS, _LATER, _CALLBACKS, _CALLBACK_MESSAGES]
        named = [part for pair in fields.items() for part in pair]
        leases = RUNNING_CALLS + job.owner
        told = _message(CALLBACKS, CALL_BACK, job.id, job.owner)
        args = [job.id, job.attempt, state, max(int(keep_s * 1000), 1), leases, *told, *named]
        return bool(self._finish(keys, args))

    def cancel(self, job_id: str, owner: str, *, keep_s: float) -> tuple[str, bytes]:
        """The state that the job is in now ("unknown" if it is not `owner`'s), and what was held if that ended it."""
        keys = [_JOB + job_id, _WAITING, _OF + owner, _CANCELS, _FACTS, _LATER, _CALLBACKS, _CALLBACK_MESSAGES]
        told = _message(CALLBACKS, CALL_BACK, job_id, owner)
        reply = self._cancel(keys, [job_id, owner, int(keep_s * 1000), *told])
        return reply[0].decode(), reply[1] if len(reply) > 1 else b""

    def status(self, job_id: str, owner: str, seen: str = "") -> Shown | None:
        """None for a job that is unknown, forgotten or not `owner`'s. `seen` has the tags that the caller knows."""
        reply = self._status([_JOB + job_id, _TURNS, _FACTS, _WORKERS], [owner, _OF, job_id, _DEAD_MS, seen, *_SHOWN])
        if not reply:
            return None
        before, slots, mean, tag, state, *fields = reply
        shown = Shown(job_id, before, slots, float(mean) / 1000 if mean else None, tag.decode(), state.decode())
        if not fields:
            return shown._replace(seen=True)
        submitted, started, finished, attempts, http_status, response, error, about, callback_url = fields
        return shown._replace(
            submitted=int(submitted) / 1000, started=_seconds(started), finished=_seconds(finished),
            attempts=int(attempts), http_status=int(http_status) if http_status else None, response=response,
            error=error, about=about, callback_url=callback_url,
        )  # fmt: skip

    def outcomes(self, job_ids: Sequence[str]) -> list[Outcome | None]:
        """What jobs have come to, in one round trip; None for one that is not there any more."""
        rows = self._redis.pipeline([("HMGET", _JOB + job_id, *_OUTCOME) for job_id in job_ids])
        return [
            Outcome(state.decode(), int(status) if status else None, response, error) if state else None
            for state, status, response, error in rows
        ]

    def remembered(self, idempotency: Sequence[str]) -> list[bytes | None]:
        """What was remembered under each."""
        found: list[bytes | None] = self._redis.execute("MGET", *idempotency) if idempotency else []
        return found

    def forget(self, job_ids: Iterable[str], idempotency: Iterable[str]) -> None:
        """Drops jobs that have ended, with what was remembered of them; all or nothing."""
        keys = [*(_JOB + job_id for job_id in job_ids), *idempotency]
        if keys:
            self._redis.execute("DEL", *keys)

    def beat(self, worker: str, slots: int, running: Iterable[tuple[str, int]]) -> list[tuple[str, int, str]]:
        """A sign of life for `running`, each a job and the number of its attempt.

        Returns those that are to end, and why: `cancelled`, or `lost` to a later attempt.
        """
        keys = [_WORKERS, _RUNNING, _CANCELS, _LATER, _WAITING, _TURNS, _FACTS, _BELLS, _BELL_MESSAGES]
        attempts = [part for pair in running for part in pair]
        told = _message(BELLS, RING)
        reply = self._beat(
            keys, [f"{worker}:{slots}", self._lease_ms, _JOB, _OF, *told, _FORGET_MS, RUNNING_CALLS, *attempts]
        )
        ending = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [(job_id.decode(), int(number), why.decode()) for job_id, number, why in ending]

    def leave(self, worker: str, slots: int) -> None:
        """The worker stops: it is not counted any more."""
        self._redis.execute("ZREM", _WORKERS, f"{worker}:{slots}")

    def depth(self) -> Depth:
        waiting, later, running, oldest, workers, (seconds, micros) = self._redis.pipeline([
            ("ZCARD", _WAITING), ("ZCARD", _LATER), ("ZCARD", _RUNNING), ("ZRANGE", _WAITING, 0, 0, "WITHSCORES"),
            ("ZRANGE", _WORKERS, 0, -1, "WITHSCORES"), ("TIME",),
        ])  # fmt: skip
        now_ms = int(seconds) * 1000 + int(micros) / 1000
        alive = [
            name for name, beat in zip(workers[::2], workers[1::2], strict=True) if now_ms - float(beat) < _DEAD_MS
        ]
        oldest_s = max(0.0, (now_ms - float(oldest[1])) / 1000) if oldest else 0.0
        slots = sum(int(name.rpartition(b":")[2]) for name in alive)
        return Depth(waiting + later, running, oldest_s, len(alive), slots)


def _message(queue: str, actor: str, *args: str) -> tuple[str, bytes]:
    """A message's id and text as Dramatiq reads them: `dramatiq.Message.decode`."""
    message_id = secrets.token_hex(8)
    return message_id, _encode({
        "queue_name": queue, "actor_name": actor, "args": args, "kwargs": {},
        "options": {"redis_message_id": message_id}, "message_id": message_id,
        "message_timestamp": int(time.time() * 1000),
    })  # fmt: skip


def _seconds(milliseconds: bytes | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None
