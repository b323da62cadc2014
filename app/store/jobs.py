"""The job queue in Redis: waiting, running and ended jobs, and fair turns between API keys; one script a step.

Bells, which are Dramatiq messages, wake the workers: a bell says "there is work", not which. `claim` chooses the next
job when a worker is free: that is what keeps keys fair to each other. A bell too many finds nothing; a lost one is rung
again by `beat`. The scripts stand in `redis/lua/jobs/`; the order of their keys and arguments is in their headers.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from app.store.job_records import HeartbeatReply, Job, JobOutcome, JobStatus, QueueDepth
from app.store.redis import keys
from app.store.redis.client import Arg, Redis

_WAITING, _RUNNING, _LATER = keys.QUEUE_WAITING, keys.QUEUE_RUNNING, keys.QUEUE_LATER
_TURNS, _OF_KEY, _CANCELS = keys.QUEUE_TURNS, keys.QUEUE_OF_KEY, keys.QUEUE_CANCELS
_BELLS = (keys.BELLS, keys.BELL_MESSAGES)
_CALLBACKS = (keys.CALLBACKS, keys.CALLBACK_MESSAGES)
# What bytes.lua counts in: the last keys of each script that begins with it.
_BYTES = (keys.QUEUE_FACTS, keys.QUEUE_SIZES, keys.QUEUE_SHARES, keys.QUEUE_RESULTS)
_DEAD_MS = 5_000  # a worker without a sign of life for this long is not counted any more
_FORGET_MS = 60_000  # … and after this long it is removed
_SETTLE_MS = 3_000  # a cancelled job's reservation that the gateway has not settled for so long is a worker's to settle
_TIMES = ("submitted", "started", "finished")
_OUTCOME = ("state", "http_status", "response", "error")
_STATUS = (*_OUTCOME, *_TIMES, "attempts", "about", "callback_url")
_encode = msgspec.json.Encoder().encode


class Jobs:
    """Commands on the queue. Each may be sent twice without effect. Methods raise `StoreUnavailable`.

    `max_bytes` bounds the requests and results of all jobs together; `lease_s` is how long a job stays with a worker
    that shows no sign of life.
    """

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
        """Returns the entry of the key `idempotency` ("" for none), and True when the queue is full."""
        entry, waiting = self._redis.pipeline([("GET", idempotency or keys.NOTHING), ("ZCARD", _WAITING)])
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
        """Takes a job into the queue, with its reservation, which then lasts `held_s`.

        Returns "queued", "full", "share" (its key holds too many bytes), "gone" (its reservation is settled), or
        "known" and the entry that was remembered before under `idempotency`, a Redis key.
        """
        places = [keys.JOB + job_id, _WAITING, _TURNS, _OF_KEY + owner, idempotency or keys.NOTHING]
        reservations = [from_reservations, to_reservations, reservation]
        bounds = [self._max_jobs, self._max_bytes, size]
        remembered = (remember, remember_s * 1000)
        bell = _message(keys.JOBS_QUEUE, keys.JOBS_ACTOR)
        reply = self._submit(
            [*places, *reservations, *_BELLS, *_BYTES],
            [job_id, owner, *bounds, *remembered, int(held_s * 1000), *bell, keys.JOB, *_flat(fields.items())],
        )
        return reply[0].decode(), reply[1] if len(reply) > 1 else b""

    def claim(self, worker: str, call_s: float, name: str = "") -> Job | None:
        """Returns the next job, this worker's for as long as it beats; None when none may run.

        When the reply is lost, `beat` is given the claim's name, and the job is as if it had not been claimed.
        """
        claim = keys.QUEUE_CLAIM + (name or secrets.token_hex(8))
        prefixes = [keys.JOB, _OF_KEY, keys.RUNNING_CALLS]
        bell = _message(keys.JOBS_QUEUE, keys.JOBS_ACTOR)
        reply = self._claim(
            [_WAITING, _TURNS, _RUNNING, *_BELLS, _CANCELS, claim, *_BYTES],
            [*prefixes, self._lease_ms, int(call_s * 1000), worker, *bell, keys.reservation_key("")],
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
        """Ends this attempt of the job; in the state `queued` it runs again after `keep_s`.

        Returns the job's state now, which is another one if the job was taken from this attempt; "full" if there is no
        room for the response of a `completed` one: nothing has happened then.
        """
        keep_ms = max(int(keep_s * 1000), 1)
        callback = _message(keys.CALLBACKS_QUEUE, keys.CALLBACKS_ACTOR, job.id, job.owner)
        end = (job.id, job.attempt, state, keep_ms, keys.RUNNING_CALLS + job.owner)
        now: bytes = self._finish(
            [keys.JOB + job.id, _RUNNING, _CANCELS, _LATER, *_CALLBACKS, *_BYTES],
            [*end, *callback, self._max_bytes, keys.JOB, *_flat(fields.items())],
        )
        return now.decode()

    def cancel(self, job_id: str, owner: str, *, keep_s: float) -> tuple[str, bytes | None]:
        """Returns the state of the job now ("unknown" if it is not `owner`'s), and its deferred call if this ended it.

        The caller is to settle that and to call `mark_settled`; if it does not, a worker's beat is told to.
        """
        places = [keys.JOB + job_id, _WAITING, _OF_KEY + owner, _CANCELS, _LATER]
        callback = _message(keys.CALLBACKS_QUEUE, keys.CALLBACKS_ACTOR, job_id, owner)
        reply = self._cancel(
            [*places, *_CALLBACKS, keys.QUEUE_UNSETTLED, *_BYTES], [job_id, owner, int(keep_s * 1000), *callback]
        )
        return reply[0].decode(), reply[1] if len(reply) > 1 else None

    def mark_settled(self, job_id: str) -> None:
        """Records that the reservation of a cancelled job is settled."""
        self._settled([keys.JOB + job_id, keys.QUEUE_UNSETTLED, *_BYTES], [job_id])

    def status(self, job_id: str, owner: str, known_etags: str = "") -> JobStatus | None:
        """Returns None for a job that is unknown, forgotten or not `owner`'s. `known_etags`: If-None-Match."""
        reply = self._status(
            [keys.JOB + job_id, _TURNS, keys.QUEUE_FACTS, keys.QUEUE_WORKERS],
            [owner, _OF_KEY, job_id, _DEAD_MS, known_etags, *_STATUS],
        )
        if not reply:
            return None
        ahead, slots, mean_ms, etag, state, *fields = reply
        status = JobStatus(
            job_id, ahead, slots, float(mean_ms) / 1000 if mean_ms else None, etag.decode(), state.decode()
        )
        if not fields:
            return status._replace(not_modified=True)
        http_status, response, error, submitted, started, finished, attempts, about, callback_url = fields
        return status._replace(
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
        """Returns the results of jobs so far, in one round trip; None for one that is not there any more."""
        rows = self._redis.pipeline([("HMGET", keys.JOB + job_id, *_OUTCOME) for job_id in job_ids])
        return [
            JobOutcome(state.decode(), int(status) if status else None, response, error) if state else None
            for state, status, response, error in rows
        ]

    def idempotency_entries(self, idempotency: Sequence[str]) -> list[bytes | None]:
        """Returns the entries of these Redis keys, each None if there is none."""
        found: list[bytes | None] = self._redis.execute("MGET", *idempotency) if idempotency else []
        return found

    def forget(self, job_ids: Sequence[str], idempotency: Iterable[str]) -> None:
        """Removes jobs that have ended, with their idempotency entries; all or nothing."""
        if job_ids:
            self._forget([*(keys.JOB + job_id for job_id in job_ids), *idempotency, *_BYTES], job_ids)

    def recount(self) -> int:
        """Counts the queue's bytes anew, from its jobs; returns them."""
        return int(self._recount([_WAITING, _RUNNING, _LATER, *_BYTES], [keys.JOB]))

    def beat(
        self, worker: str, slots: int, running: Iterable[tuple[str, int]], unanswered: Sequence[str] = ()
    ) -> HeartbeatReply:
        """Shows a sign of life for `running`, each a job and the number of its attempt; puts the queue in order.

        `unanswered`: names of claims that may have been carried out, though no answer came.
        """
        bell = _message(keys.JOBS_QUEUE, keys.JOBS_ACTOR)
        first = (f"{worker}:{slots}", self._lease_ms, keys.JOB, _OF_KEY)
        prefixes = (keys.RUNNING_CALLS, keys.QUEUE_CLAIM)
        ending, unsettled = self._beat(
            [keys.QUEUE_WORKERS, _RUNNING, _CANCELS, _LATER, _WAITING, _TURNS, *_BELLS, keys.QUEUE_UNSETTLED, *_BYTES],
            [*first, *bell, _FORGET_MS, *prefixes, _SETTLE_MS, len(unanswered), *unanswered, *_flat(running)],
        )
        return HeartbeatReply(
            [
                (job_id.decode(), int(number), why.decode())
                for job_id, number, why in zip(ending[::3], ending[1::3], ending[2::3], strict=True)
            ],
            [(job_id.decode(), held) for job_id, held in zip(unsettled[::2], unsettled[1::2], strict=True)],
        )

    def remove_worker(self, worker: str, slots: int) -> None:
        """Removes a worker that stops: it is not counted any more."""
        self._redis.execute("ZREM", keys.QUEUE_WORKERS, f"{worker}:{slots}")

    def depth(self) -> QueueDepth:
        waiting, later, running, oldest, workers, (seconds, micros) = self._redis.pipeline(
            [("ZCARD", place) for place in (_WAITING, _LATER, _RUNNING)]
            + [
                ("ZRANGE", _WAITING, 0, 0, "WITHSCORES"),
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
    """Returns a message's id and text as Dramatiq reads them: `dramatiq.Message.decode`."""
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


def _flat(pairs: Iterable[tuple[Arg, Arg]]) -> Iterator[Arg]:
    return chain.from_iterable(pairs)


def _seconds(milliseconds: bytes | None) -> float | None:
    return int(milliseconds) / 1000 if milliseconds else None
