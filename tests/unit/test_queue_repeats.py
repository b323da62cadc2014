"""Each of the queue's scripts may arrive twice, late or without its answer: nothing counts twice, nothing is left over.

A command whose connection broke is sent once more (`store.redis.client`); what was sent before may still be carried
out, also after later ones, by a Redis that was only stalled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import StoreUnavailable
from app.store import jobs
from app.store.job_records import Job
from app.store.jobs import Jobs
from app.store.redis import keys
from app.store.redis.client import Redis, Script
from app.store.redis.keys import reservation_key

QUEUE, WORKER = "penstock:reservations:queue", "penstock:reservations:w"
# How a command fares: carried out so often; once now and once later; carried out or not, or later, without an answer.
FATES = ("once", "twice", "thrice", "again later", "unanswered", "lost", "unanswered and later")


class UnreliableRedis:
    """A Redis whose connection breaks as it is told."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.fate = "once"
        self.late: list[tuple[Any, ...]] = []

    def script(self, *names: str) -> Script:
        found = self.redis.script(*names)
        return Script(self, found._text)  # type: ignore[arg-type]

    def execute(self, *command: Any) -> Any:
        times = {"twice": 2, "thrice": 3, "lost": 0, "unanswered and later": 0}.get(self.fate, 1)
        reply = None
        for _ in range(times):
            reply = self.redis.execute("EVAL", self._text(command), *command[2:])
        if "later" in self.fate:
            self.late.append(command)
        if self.fate.startswith(("unanswered", "lost")):
            failure = StoreUnavailable("Away.")
            failure.perhaps_done = True
            raise failure
        return reply

    def catch_up(self) -> None:
        late, self.late = self.late, []
        for command in late:
            self.redis.execute("EVAL", self._text(command), *command[2:])

    def _text(self, command: Sequence[Any]) -> str:
        return self.texts[command[1]]

    texts: dict[str, str]


class QueueMachine:
    """Gateways and workers on one queue, as far as they know what they have done."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.storm = UnreliableRedis(redis)
        self.jobs = Jobs(redis=self.storm, max_jobs=50, max_bytes=60_000, lease_s=15)  # type: ignore[arg-type]
        scripts = [found for found in vars(self.jobs).values() if isinstance(found, Script)]
        self.storm.texts = {script._sha: script._text for script in scripts}
        self.running: list[Job] = []
        self.unanswered: list[str] = []
        self.ids: list[str] = []

    def submit(self, owner: str) -> None:
        job_id = f"j{len(self.ids)}"
        self.ids.append(job_id)
        self.redis.execute("HSET", reservation_key(job_id), "s", "open")
        self.redis.execute("ZADD", WORKER, 1, job_id)
        fields: dict[str, str | bytes | int] = {
            "key_hash": "h",
            "endpoint": "chat.completions",
            "model": "m",
            "request": b"x" * 3000,
            "held": b"{}",
            "priority": 1,
            "most_at_once": "",
            "callback_url": "https://a",
            "keep_s": 0,
        }
        try:
            outcome, _ = self.jobs.submit(
                job_id,
                owner,
                fields,
                size=3000,
                from_reservations=WORKER,
                to_reservations=QUEUE,
                reservation=reservation_key(job_id),
                held_s=60,
                idempotency=f"penstock:idempotency:{job_id}",
                remember=f"body:{job_id}",
                remember_s=60,
            )
        except StoreUnavailable:
            outcome = "unknown"
        assert outcome in ("queued", "share", "unknown")
        if outcome != "queued":
            self.settle(job_id)

    def claim(self) -> None:
        name = f"claim-{len(self.unanswered)}-{len(self.running)}-{self.redis.execute('INCR', 'names')}"
        try:
            job = self.jobs.claim("w", 60, name)
        except StoreUnavailable:
            self.unanswered.append(name)
            return
        if job is not None:
            self.running.append(job)

    def finish(self, state: str) -> None:
        if not self.running:
            return
        job = self.running.pop(0)
        fields: dict[str, Any] = {"response": b"y" * 9000} if state == "completed" else {"error": b"{}"}
        if state != "queued":
            self.settle(job.id)
        try:
            now = self.jobs.finish(job, state, fields, keep_s=0.001 if state == "queued" else 600)
        except StoreUnavailable:
            now = ""
        if now == "":  # as the runner does: again, until it has an answer
            self.storm.fate = "once"
            now = self.jobs.finish(job, state, fields, keep_s=0.001 if state == "queued" else 600)
        if now == "full":
            self.storm.fate = "once"
            assert self.jobs.finish(job, "failed", {"error": b"{}"}, keep_s=600) == "failed"
        else:
            assert now == state

    def cancel(self) -> None:
        if not self.ids:
            return
        job_id = self.ids[len(self.ids) // 2]
        try:
            _, held = self.jobs.cancel(job_id, self.owner(job_id), keep_s=600)
        except StoreUnavailable:
            return
        if held is not None:
            self.settle(job_id)
            self.settled(job_id)

    def beat(self) -> None:
        names, running = list(self.unanswered), [(job.id, job.attempt) for job in self.running]
        try:
            told = self.jobs.beat("w", 4, running, names)
        except StoreUnavailable:
            return
        self.unanswered = [name for name in self.unanswered if name not in names]
        assert [why for _, _, why in told.attempts_to_end if why == "lost"] == []
        for job_id, _ in told.jobs_to_settle:
            self.settle(job_id)
            self.settled(job_id)

    def settle(self, job_id: str) -> None:
        self.redis.execute("HSET", reservation_key(job_id), "s", "settled")

    def settled(self, job_id: str) -> None:
        try:
            self.jobs.mark_settled(job_id)
        except StoreUnavailable:
            pass

    def owner(self, job_id: str) -> str:
        return (self.redis.execute("HGET", keys.JOB + job_id, "owner") or b"a").decode()

    def check(self) -> None:
        """Checks the invariants that hold at any moment."""
        redis = self.redis
        hashes = {}
        for job_id in self.ids:
            found = redis.execute("HGETALL", keys.JOB + job_id)
            if found:
                hashes[job_id] = dict(zip(found[::2], found[1::2], strict=True))
        state = {job_id: job[b"state"] for job_id, job in hashes.items()}
        waiting, later, running = (
            {job_id.decode() for job_id in redis.execute("ZRANGE", name, 0, -1)}
            for name in (keys.QUEUE_WAITING, keys.QUEUE_LATER, keys.QUEUE_RUNNING)
        )
        assert waiting | later == {job_id for job_id in state if state[job_id] == b"queued"}
        assert waiting & later == set()
        assert running == {job_id for job_id in state if state[job_id] == b"processing"}
        own = [
            job_id.decode()
            for name in redis.execute("KEYS", keys.QUEUE_OF_KEY + "*")
            for job_id in redis.execute("ZRANGE", name, 0, -1)
        ]
        assert sorted(own) == sorted(waiting)
        texts = (b"request", b"held", b"response", b"about", b"error")
        sizes = {job_id: 2000 + sum(len(job.get(text, b"")) for text in texts) for job_id, job in hashes.items()}
        shares: Counter[str] = Counter()
        for job_id, size in sizes.items():
            shares[hashes[job_id][b"owner"].decode()] += size
        assert int(redis.execute("HGET", "penstock:queue:facts", "bytes") or 0) == sum(sizes.values())
        found = redis.execute("HGETALL", "penstock:queue:shares")
        assert {k.decode(): int(v) for k, v in zip(found[::2], found[1::2], strict=True)} == dict(shares)
        for name in (keys.BELLS, keys.CALLBACKS):
            rung = redis.execute("LRANGE", name, 0, -1)
            assert len(rung) == len(set(rung))
        told = Counter(
            tuple(msgspec.json.decode(message)["args"]) for message in redis.execute("HVALS", keys.CALLBACK_MESSAGES)
        )
        assert set(told.values()) <= {1}
        unsettled = {job_id.decode() for job_id in redis.execute("ZRANGE", keys.QUEUE_UNSETTLED, 0, -1)}
        for job_id in state:
            if state[job_id] in (b"completed", b"failed", b"cancelled"):
                closed = redis.execute("HGET", reservation_key(job_id), "s") == b"settled"
                assert closed or job_id in unsettled


OPS = st.sampled_from(
    ["submit a", "submit a", "submit b", "claim", "claim", "completed", "failed", "queued", "cancel", "beat"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(OPS, st.sampled_from(FATES), st.booleans()), min_size=5, max_size=40))
def test_repeated_late_or_unanswered_steps_count_once_and_leave_nothing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str, bool]]
) -> None:
    monkeypatch.setattr(jobs, "_SETTLE_MS", 0)
    redis.execute("FLUSHALL")
    world = QueueMachine(redis)
    for op, fate, catch_up in steps:
        world.storm.fate = fate
        name, _, more = op.partition(" ")
        if name in ("completed", "failed", "queued"):
            world.finish(name)
        else:
            getattr(world, name)(*([more] if more else []))
        world.check()
        if catch_up:
            world.storm.catch_up()
            world.check()
    # The storm is over: workers run what there is.
    world.storm.fate = "once"
    for _ in range(200):
        world.storm.catch_up()
        world.beat()
        world.check()
        world.claim()
        if not world.running and not redis.execute("ZCARD", keys.QUEUE_LATER):
            break
        world.finish("completed")
        world.check()
    world.beat()
    for name in (keys.QUEUE_WAITING, keys.QUEUE_LATER, keys.QUEUE_RUNNING, keys.QUEUE_UNSETTLED):
        assert redis.execute("ZRANGE", name, 0, -1) == []
    for job_id in world.ids:
        assert redis.execute("HGET", reservation_key(job_id), "s") == b"settled"
    attempts = [redis.execute("HMGET", keys.JOB + job_id, "attempts", "recorded") for job_id in world.ids]
    # No attempt was consumed by an answer that got lost.
    assert all(int(count) <= int(recorded) + 1 for count, recorded in attempts if count)
