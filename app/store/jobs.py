"""The queue in Redis: jobs that wait, whose turn it is, who runs what. Each step is one script (`lua/jobs/`).

Dramatiq's workers are woken by bells: messages that say "there is work", not which. Which job is next is decided when
a worker has a hand free, by `claim`: that is what keeps keys fair to each other. A bell too many finds nothing; one
that is lost is rung again by `beat`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from app.store.job_types import BeatReply, Job, JobOutcome, JobStatus, QueueDepth
from app.store.redis.client import Redis
from app.store.redis.keys import NOTHING, RUNNING_CALLS, reservation_key

NAMESPACE = "penstock:dramatiq"
BELLS = "jobs"  # the Dramatiq queue that is listened to
RING = "run_jobs"  # the Dramatiq actor that answers
CALLBACKS, CALL_BACK = "callbacks", "call_back"  # the queue and actor that tell of ended jobs
_JOB, _OF = "penstock:job:", "penstock:queue:of:"
_WAITING, _TURNS, _FACTS = "penstock:queue:waiting", "penstock:queue:turns", "penstock:queue:facts"
_RUNNING, _LATER, _CANCELS = "penstock:queue:running", "penstock:queue:later", "penstock:queue:cancels"
_WORKERS, _UNSETTLED = "penstock:queue:workers", "penstock:queue:unsettled"
_CLAIM = "penstock:queue:claim:"  # and a claim's name
# What bytes.lua counts in, the last keys of each script that it begins.
_BYTES = (_FACTS, "penstock:queue:sizes", "penstock:queue:shares", "penstock:queue:results")
# What `store.job_list` reads, too.
JOB, OF, WAITING, TURNS, RUNNING, LATER = _JOB, _OF, _WAITING, _TURNS, _RUNNING, _LATER
_BELLS, _BELL_MESSAGES = f"{NAMESPACE}:{BELLS}", f"{NAMESPACE}:{BELLS}.msgs"
_CALLBACKS, _CALLBACK_MESSAGES = f"{NAMESPACE}:{CALLBACKS}", f"{NAMESPACE}:{CALLBACKS}.msgs"
_DEAD_MS = 5_000  # a worker without a sign of life for this long is not counted any more
_FORGET_MS = 60_000  # … and after this long not even remembered
_SETTLE_MS = 3_000  # what a cancelled job has reserved is settled by a worker when the gateway has not for so long
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


class Jobs:
    def __init__(self, *, redis: Redis, most_jobs: int, most_bytes: int, lease_s: float) -> None:
        self._redis = redis
        self._most_jobs, self._most_bytes = most_jobs, most_bytes
        self._lease_ms = int(lease_s * 1000)
        self._submit = redis.script("jobs/bytes", "jobs/submit")
        self._claim = redis.script("jobs/bytes", "jobs/claim")
        self._finish = redis.script("jobs/bytes", "jobs/finish")
        self._cancel = redis.script("jobs/bytes", "jobs/cancel")
        self._status = redis.script("jobs/status")
        self._beat = redis.script("jobs/bytes", "jobs/beat")
        self._settled = redis.script("jobs/bytes", "jobs/settled")
        self._forget = redis.script("jobs/bytes", "jobs/forget")
        self._recount = redis.script("jobs/bytes", "jobs/recount")

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
        """Takes the job in. Returns "queued", "full", "share" (its key holds too many bytes), "gone" (its reservation
        is settled), or "known" and the entry."""
        keys = [
            _JOB + job_id,
            _WAITING,
            _TURNS,
            _OF + owner,
            idempotency or NOTHING,
            from_reservations,
            to_reservations,
            reservation,
            _BELLS,
            _BELL_MESSAGES,
            *_BYTES,
        ]
        named = [part for pair in fields.items() for part in pair]
        reply = self._submit(
            keys,
            [
                job_id,
                owner,
                self._most_jobs,
                self._most_bytes,
                size,
                remember,
                remember_s * 1000,
                int(held_s * 1000),
                *_message(BELLS, RING),
                _JOB,
                *named,
            ],
        )
        return reply[0].decode(), reply[1] if len(reply) > 1 else b""

    def claim(self, worker: str, call_s: float, name: str = "") -> Job | None:
        """The next job, now this worker's for as long as it beats; None when none may run.

        When no answer came, `beat` is told the claim's name, and the job is as if it had not been claimed.
        """
        claim = _CLAIM + (name or secrets.token_hex(8))
        keys = [_WAITING, _TURNS, _RUNNING, _BELLS, _BELL_MESSAGES, _CANCELS, claim, *_BYTES]
        reply = self._claim(
            keys,
            [
                _JOB,
                _OF,
                RUNNING_CALLS,
                self._lease_ms,
                int(call_s * 1000),
                worker,
                *_message(BELLS, RING),
                reservation_key(""),
            ],
        )
        if not reply:
            return None
        fields = dict(zip(reply[3::2], reply[4::2], strict=True))
        return Job(
            reply[0].decode(),
            int(fields[b"attempts"]),
            bool(reply[1]),
            fields[b"owner"].decode(),
            fields[b"key_hash"].decode(),
            fields[b"endpoint"].decode(),
            fields[b"request"],
            fields[b"held"],
            int(fields[b"submitted"]) / 1000,
            int(fields.get(b"keep_s", 0)),
            int(fields.get(b"recorded", 0)),
            refused=reply[2] == b"cancelled",
        )

    def finish(self, job: Job, state: str, fields: Mapping[str, str | bytes | int], *, keep_s: float) -> str:
        """Ends this attempt; `queued`: it runs again after `keep_s`.

        Returns the job's state now, which is another one if the job was taken from this attempt; "full" if there is no
        room for the answer of a `completed` one: nothing has happened then.
        """
        keys = [_JOB + job.id, _RUNNING, _CANCELS, _LATER, _CALLBACKS, _CALLBACK_MESSAGES, *_BYTES]
        named = [part for pair in fields.items() for part in pair]
        leases = RUNNING_CALLS + job.owner
        told = _message(CALLBACKS, CALL_BACK, job.id, job.owner)
        keep_ms = max(int(keep_s * 1000), 1)
        args = [job.id, job.attempt, state, keep_ms, leases, *told, self._most_bytes, _JOB, *named]
        now: bytes = self._finish(keys, args)
        return now.decode()

    def cancel(self, job_id: str, owner: str, *, keep_s: float) -> tuple[str, bytes | None]:
        """The state that the job is in now ("unknown" if it is not `owner`'s), and what was held if this ended it.

        That is the caller's to settle, and to say so with `settled`; if it does not, a worker's beat gets it.
        """
        keys = [_JOB + job_id, _WAITING, _OF + owner, _CANCELS, _LATER, _CALLBACKS, _CALLBACK_MESSAGES, _UNSETTLED]
        told = _message(CALLBACKS, CALL_BACK, job_id, owner)
        reply = self._cancel([*keys, *_BYTES], [job_id, owner, int(keep_s * 1000), *told])
        return reply[0].decode(), reply[1] if len(reply) > 1 else None

    def settled(self, job_id: str) -> None:
        """What a cancelled job had reserved has been settled."""
        self._settled([_JOB + job_id, _UNSETTLED, *_BYTES], [job_id])

    def status(self, job_id: str, owner: str, seen: str = "") -> JobStatus | None:
        """None for a job that is unknown, forgotten or not `owner`'s. `seen` has the tags that the caller knows."""
        reply = self._status([_JOB + job_id, _TURNS, _FACTS, _WORKERS], [owner, _OF, job_id, _DEAD_MS, seen, *_SHOWN])
        if not reply:
            return None
        before, slots, mean, tag, state, *fields = reply
        shown = JobStatus(job_id, before, slots, float(mean) / 1000 if mean else None, tag.decode(), state.decode())
        if not fields:
            return shown._replace(seen=True)
        submitted, started, finished, attempts, http_status, response, error, about, callback_url = fields
        return shown._replace(
            submitted=int(submitted) / 1000,
            started=_seconds(started),
            finished=_seconds(finished),
            attempts=int(attempts),
            http_status=int(http_status) if http_status else None,
            response=response,
            error=error,
            about=about,
            callback_url=callback_url,
        )

    def outcomes(self, job_ids: Sequence[str]) -> list[JobOutcome | None]:
        """What jobs have come to, in one round trip; None for one that is not there any more."""
        rows = self._redis.pipeline([("HMGET", _JOB + job_id, *_OUTCOME) for job_id in job_ids])
        return [
            JobOutcome(state.decode(), int(status) if status else None, response, error) if state else None
            for state, status, response, error in rows
        ]

    def remembered(self, idempotency: Sequence[str]) -> list[bytes | None]:
        """What was remembered under each."""
        found: list[bytes | None] = self._redis.execute("MGET", *idempotency) if idempotency else []
        return found

    def forget(self, job_ids: Sequence[str], idempotency: Iterable[str]) -> None:
        """Drops jobs that have ended, with what was remembered of them; all or nothing."""
        if job_ids:
            self._forget([*(_JOB + job_id for job_id in job_ids), *idempotency, *_BYTES], job_ids)

    def recount(self) -> int:
        """Counts the queue's bytes anew, from what is there; returns them."""
        return int(self._recount([_WAITING, _RUNNING, _LATER, *_BYTES], [_JOB]))

    def beat(
        self, worker: str, slots: int, running: Iterable[tuple[str, int]], unanswered: Sequence[str] = ()
    ) -> BeatReply:
        """A sign of life for `running`, each a job and the number of its attempt.

        `unanswered`: names of claims that may have been carried out, though no answer came.
        """
        keys = [_WORKERS, _RUNNING, _CANCELS, _LATER, _WAITING, _TURNS, _BELLS, _BELL_MESSAGES, _UNSETTLED, *_BYTES]
        attempts = [part for pair in running for part in pair]
        ending, unsettled = self._beat(
            keys,
            [
                f"{worker}:{slots}",
                self._lease_ms,
                _JOB,
                _OF,
                *_message(BELLS, RING),
                _FORGET_MS,
                RUNNING_CALLS,
                _CLAIM,
                _SETTLE_MS,
                len(unanswered),
                *unanswered,
                *attempts,
            ],
        )
        return BeatReply(
            [
                (job_id.decode(), int(number), why.decode())
                for job_id, number, why in zip(ending[::3], ending[1::3], ending[2::3], strict=True)
            ],
            [(job_id.decode(), held) for job_id, held in zip(unsettled[::2], unsettled[1::2], strict=True)],
        )

    def leave(self, worker: str, slots: int) -> None:
        """The worker stops: it is not counted any more."""
        self._redis.execute("ZREM", _WORKERS, f"{worker}:{slots}")

    def depth(self) -> QueueDepth:
        waiting, later, running, oldest, workers, (seconds, micros) = self._redis.pipeline(
            [
                ("ZCARD", _WAITING),
                ("ZCARD", _LATER),
                ("ZCARD", _RUNNING),
                ("ZRANGE", _WAITING, 0, 0, "WITHSCORES"),
                ("ZRANGE", _WORKERS, 0, -1, "WITHSCORES"),
                ("TIME",),
            ]
        )
        now_ms = int(seconds) * 1000 + int(micros) / 1000
        alive = [
            name for name, beat in zip(workers[::2], workers[1::2], strict=True) if now_ms - float(beat) < _DEAD_MS
        ]
        oldest_s = max(0.0, (now_ms - float(oldest[1])) / 1000) if oldest else 0.0
        slots = sum(int(name.rpartition(b":")[2]) for name in alive)
        return QueueDepth(waiting + later, running, oldest_s, len(alive), slots)


def _message(queue: str, actor: str, *args: str) -> tuple[str, bytes]:
    """A message's id and text as Dramatiq reads them: `dramatiq.Message.decode`."""
    message_id = secrets.token_hex(8)
    return message_id, _encode(
        {
            "queue_name": queue,
            "actor_name": actor,
            "args": args,
            "kwargs": {},
            "options": {"redis_message_id": message_id},
            "message_id": message_id,
            "message_timestamp": int(time.time() * 1000),
        }
    )


def _seconds(milliseconds: bytes | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None
