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

from app.store.job_records import HeartbeatReply, Job, JobOutcome, JobStatus, QueueDepth
from app.store.redis import keys
from app.store.redis.client import Redis

# The keys that bytes.lua counts in, the last ones of each script that begins with it.
_BYTES = (keys.QUEUE_FACTS, keys.QUEUE_SIZES, keys.QUEUE_SHARES, keys.QUEUE_RESULTS)
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
    def __init__(self, *, redis: Redis, max_jobs: int, max_bytes: int, lease_s: float) -> None:
        self._redis = redis
        self._max_jobs, self._max_bytes = max_jobs, max_bytes
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

    def precheck(self, idempotency: str) -> tuple[bytes | None, bool]:
        """What was remembered under `idempotency` ("" for none), and whether the queue is full."""
        entry, waiting = self._redis.pipeline([("GET", idempotency or keys.NOTHING), ("ZCARD", keys.QUEUE_WAITING)])
        return entry, waiting >= self._max_jobs

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
        key_names = [
            keys.JOB + job_id,
            keys.QUEUE_WAITING,
            keys.QUEUE_TURNS,
            keys.QUEUE_OF_KEY + owner,
            idempotency or keys.NOTHING,
            from_reservations,
            to_reservations,
            reservation,
            keys.BELLS,
            keys.BELL_MESSAGES,
            *_BYTES,
        ]
        named = [part for pair in fields.items() for part in pair]
        reply = self._submit(
            key_names,
            [
                job_id,
                owner,
                self._max_jobs,
                self._max_bytes,
                size,
                remember,
                remember_s * 1000,
                int(held_s * 1000),
                *_message(keys.JOBS_QUEUE, keys.JOBS_ACTOR),
                keys.JOB,
                *named,
            ],
        )
        return reply[0].decode(), reply[1] if len(reply) > 1 else b""

    def claim(self, worker: str, call_s: float, name: str = "") -> Job | None:
        """The next job, now this worker's for as long as it beats; None when none may run.

        When no answer came, `beat` is told the claim's name, and the job is as if it had not been claimed.
        """
        claim = keys.QUEUE_CLAIM + (name or secrets.token_hex(8))
        key_names = [
            keys.QUEUE_WAITING,
            keys.QUEUE_TURNS,
            keys.QUEUE_RUNNING,
            keys.BELLS,
            keys.BELL_MESSAGES,
            keys.QUEUE_CANCELS,
            claim,
            *_BYTES,
        ]
        reply = self._claim(
            key_names,
            [
                keys.JOB,
                keys.QUEUE_OF_KEY,
                keys.RUNNING_CALLS,
                self._lease_ms,
                int(call_s * 1000),
                worker,
                *_message(keys.JOBS_QUEUE, keys.JOBS_ACTOR),
                keys.reservation_key(""),
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
        key_names = [
            keys.JOB + job.id,
            keys.QUEUE_RUNNING,
            keys.QUEUE_CANCELS,
            keys.QUEUE_LATER,
            keys.CALLBACKS,
            keys.CALLBACK_MESSAGES,
            *_BYTES,
        ]
        named = [part for pair in fields.items() for part in pair]
        leases = keys.RUNNING_CALLS + job.owner
        told = _message(keys.CALLBACKS_QUEUE, keys.CALLBACKS_ACTOR, job.id, job.owner)
        keep_ms = max(int(keep_s * 1000), 1)
        args = [job.id, job.attempt, state, keep_ms, leases, *told, self._max_bytes, keys.JOB, *named]
        now: bytes = self._finish(key_names, args)
        return now.decode()

    def cancel(self, job_id: str, owner: str, *, keep_s: float) -> tuple[str, bytes | None]:
        """The state that the job is in now ("unknown" if it is not `owner`'s), and what was held if this ended it.

        That is the caller's to settle, and to say so with `settled`; if it does not, a worker's beat gets it.
        """
        key_names = [
            keys.JOB + job_id,
            keys.QUEUE_WAITING,
            keys.QUEUE_OF_KEY + owner,
            keys.QUEUE_CANCELS,
            keys.QUEUE_LATER,
            keys.CALLBACKS,
            keys.CALLBACK_MESSAGES,
            keys.QUEUE_UNSETTLED,
        ]
        told = _message(keys.CALLBACKS_QUEUE, keys.CALLBACKS_ACTOR, job_id, owner)
        reply = self._cancel([*key_names, *_BYTES], [job_id, owner, int(keep_s * 1000), *told])
        return reply[0].decode(), reply[1] if len(reply) > 1 else None

    def mark_settled(self, job_id: str) -> None:
        """What a cancelled job had reserved has been settled."""
        self._settled([keys.JOB + job_id, keys.QUEUE_UNSETTLED, *_BYTES], [job_id])

    def status(self, job_id: str, owner: str, seen: str = "") -> JobStatus | None:
        """None for a job that is unknown, forgotten or not `owner`'s. `seen` has the tags that the caller knows."""
        reply = self._status(
            [keys.JOB + job_id, keys.QUEUE_TURNS, keys.QUEUE_FACTS, keys.QUEUE_WORKERS],
            [owner, keys.QUEUE_OF_KEY, job_id, _DEAD_MS, seen, *_SHOWN],
        )
        if not reply:
            return None
        before, slots, mean, tag, state, *fields = reply
        shown = JobStatus(job_id, before, slots, float(mean) / 1000 if mean else None, tag.decode(), state.decode())
        if not fields:
            return shown._replace(not_modified=True)
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
        rows = self._redis.pipeline([("HMGET", keys.JOB + job_id, *_OUTCOME) for job_id in job_ids])
        return [
            JobOutcome(state.decode(), int(status) if status else None, response, error) if state else None
            for state, status, response, error in rows
        ]

    def idempotency_entries(self, idempotency: Sequence[str]) -> list[bytes | None]:
        """What was remembered under each."""
        found: list[bytes | None] = self._redis.execute("MGET", *idempotency) if idempotency else []
        return found

    def forget(self, job_ids: Sequence[str], idempotency: Iterable[str]) -> None:
        """Drops jobs that have ended, with what was remembered of them; all or nothing."""
        if job_ids:
            self._forget([*(keys.JOB + job_id for job_id in job_ids), *idempotency, *_BYTES], job_ids)

    def recount(self) -> int:
        """Counts the queue's bytes anew, from what is there; returns them."""
        return int(self._recount([keys.QUEUE_WAITING, keys.QUEUE_RUNNING, keys.QUEUE_LATER, *_BYTES], [keys.JOB]))

    def beat(
        self, worker: str, slots: int, running: Iterable[tuple[str, int]], unanswered: Sequence[str] = ()
    ) -> HeartbeatReply:
        """A sign of life for `running`, each a job and the number of its attempt.

        `unanswered`: names of claims that may have been carried out, though no answer came.
        """
        key_names = [
            keys.QUEUE_WORKERS,
            keys.QUEUE_RUNNING,
            keys.QUEUE_CANCELS,
            keys.QUEUE_LATER,
            keys.QUEUE_WAITING,
            keys.QUEUE_TURNS,
            keys.BELLS,
            keys.BELL_MESSAGES,
            keys.QUEUE_UNSETTLED,
            *_BYTES,
        ]
        attempts = [part for pair in running for part in pair]
        ending, unsettled = self._beat(
            key_names,
            [
                f"{worker}:{slots}",
                self._lease_ms,
                keys.JOB,
                keys.QUEUE_OF_KEY,
                *_message(keys.JOBS_QUEUE, keys.JOBS_ACTOR),
                _FORGET_MS,
                keys.RUNNING_CALLS,
                keys.QUEUE_CLAIM,
                _SETTLE_MS,
                len(unanswered),
                *unanswered,
                *attempts,
            ],
        )
        return HeartbeatReply(
            [
                (job_id.decode(), int(number), why.decode())
                for job_id, number, why in zip(ending[::3], ending[1::3], ending[2::3], strict=True)
            ],
            [(job_id.decode(), held) for job_id, held in zip(unsettled[::2], unsettled[1::2], strict=True)],
        )

    def remove_worker(self, worker: str, slots: int) -> None:
        """The worker stops: it is not counted any more."""
        self._redis.execute("ZREM", keys.QUEUE_WORKERS, f"{worker}:{slots}")

    def depth(self) -> QueueDepth:
        waiting, later, running, oldest, workers, (seconds, micros) = self._redis.pipeline(
            [
                ("ZCARD", keys.QUEUE_WAITING),
                ("ZCARD", keys.QUEUE_LATER),
                ("ZCARD", keys.QUEUE_RUNNING),
                ("ZRANGE", keys.QUEUE_WAITING, 0, 0, "WITHSCORES"),
                ("ZRANGE", keys.QUEUE_WORKERS, 0, -1, "WITHSCORES"),
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
