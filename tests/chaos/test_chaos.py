"""A deployment under steady load while everything that can die, stall or fill up does: the books still balance.

Afterwards, for every key and limit, the counter in Redis is the sum of the ledger's rows; no budget was exceeded; no
reservation is left; every call that was admitted has one row; and no log has a traceback. The short form, one seed,
runs with the other tests; the long one:

    CHAOS_SEEDS="1 2 3" CHAOS_SECONDS=120 .venv/bin/python -m pytest tests/chaos/test_chaos.py -s

`CHAOS_KEEP` is a directory for the logs. Filling a disk takes a filesystem of its own, which only root can mount:
others run without that fault.
"""

from __future__ import annotations

import http.client
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.executables import find_redis
from tests.chaos.faults import Faults
from tests.support.client import Answer, ask, chat, post
from tests.support.deployment import Deployment
from tests.support.greedy import GreedyVendor
from tests.support.lenient import prices_yaml
from tests.support.servers import RedisServer
from tests.support.small_disk import SmallDisk

SEEDS = [int(number) for number in os.environ.get("CHAOS_SEEDS", "1").split()]
SECONDS = float(os.environ.get("CHAOS_SECONDS", "16"))
CALLERS = 12
PLANS = {"tight": 0.005, "middling": 0.03, "roomy": 50}  # dollars a day
KEYS_A_PLAN = 3
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models:
  plain: {{targets: [{{provider: up}}], max_output_tokens: 1000}}
  pair:
    targets: [{{provider: up, model: plain}}]
    fallbacks: [{{provider: up, model: backup}}]
    max_output_tokens: 1000
plans: {{{plans}}}
timeouts: {{connect_s: 2, first_byte_s: 1.5, idle_s: 2, total_s: 8}}
retry: {{backoff_s: 0.05, breaker_threshold: 1000}}
reserve: {{worker_timeout_s: 3}}
queue: {{retry_backoff_s: 0.1, max_attempts: 5, lease_s: 3}}
"""
PLAN = "{name}: {{budget_usd_per_day: {dollars}, requests_per_day: 1000000, tokens_per_day: 1000000000}}"


class CallOutcome(NamedTuple):
    """The outcome of a call for its caller. `mark` is the vendor's name for it; `answered`: whole, with status 200."""

    request_id: str
    mark: str
    outcome: str
    answered: bool
    job: tuple[str, str] | None = None  # its id, and the key that asked


class Callers:
    """Threads that call without a pause worth the name until they are told to stop."""

    def __init__(self, deployment: Deployment, keys: list[str], number: int) -> None:
        self.seen: list[CallOutcome] = []
        self._port = deployment.port
        self._keys = keys
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(i, number), daemon=True) for i in range(CALLERS)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a caller got no answer for a minute"

    def _call(self, caller: int, number: int) -> None:
        rng = random.Random(f"{number} {caller}")
        calls = 0
        while not self._over.wait(rng.uniform(0.01, 0.05)):
            calls += 1
            key = rng.randrange(len(self._keys))
            self.seen.append(self._one(rng, self._keys[key], f"k{key}", f"x{caller}c{calls}"))

    def _one(self, rng: random.Random, key: str, name: str, call: str) -> CallOutcome:
        kind = rng.choice(
            ("whole", "whole", "stream", "stream", "cached", "cached", "hung-up", "left", "job", "faulty")
        )
        manner = rng.choice(("ok", "ok", "slow.300"))
        fields: dict[str, object] = {"max_tokens": rng.randrange(20, 200)}
        request_id = f"{name}-{call}"
        if kind == "cached":  # the same for every caller of this key
            call, manner = f"same{rng.randrange(4)}", "ok"
            fields = {"temperature": 0, "max_tokens": 500}
        elif kind in ("stream", "hung-up"):
            manner = rng.choice(("ok", "pace.10", "pace.20", "cut.3", "error.5"))
            fields["stream"] = True
        elif kind == "left":
            manner = "slow.400"
        elif kind == "faulty":
            manner = rng.choice(("cut.0-once", "fail.504-once", "refuse.503-once", "fail.504", "stall.2500-once"))
        model = rng.choice(("plain", "pair"))
        body = chat("plain" if kind == "cached" else model, f"[[{name}-{call}-{manner}]] some words", **fields)
        mark = f"{name}-{call}"
        headers = {"X-Request-ID": request_id}
        path = "/v1/chat/async" if kind == "job" else "/v1/chat/completions"
        hang_up_after = 3 if kind == "hung-up" else None
        try:
            answer = post(
                self._port,
                body,
                key,
                path=path,
                headers=headers,
                hang_up_after=hang_up_after,
                timeout_s=0.1 if kind == "left" else 30,
            )
        except TimeoutError:
            return CallOutcome(request_id, mark, "left" if kind == "left" else "no answer in 30 s", False)
        except (OSError, http.client.HTTPException) as exc:
            self._over.wait(0.2)  # it is away: so many calls that fail say nothing
            return CallOutcome(request_id, mark, type(exc).__name__, False)
        return self._seen(answer, request_id, mark, key, streamed="stream" in fields)

    def _seen(self, answer: Answer, request_id: str, mark: str, key: str, *, streamed: bool) -> CallOutcome:
        if answer.status >= 400:
            return CallOutcome(request_id, mark, f"{answer.status} {answer.code}", False)
        if answer.status == 202:
            return CallOutcome(request_id, mark, "202", False, (answer.json["request_id"], key))
        # A whole answer that was cut would not have come: http.client counts its bytes.
        whole = answer.done if streamed else True
        return CallOutcome(request_id, mark, "200" if whole else "200 not whole", whole)


@contextmanager
def deployed(directory: Path) -> Iterator[tuple[Deployment, RedisServer, SmallDisk, GreedyVendor]]:
    """Redis's disk is not the small one; it loses nothing that it has acknowledged, so that sums must be exact."""
    directory.mkdir(parents=True, exist_ok=True)
    own = directory / "redis"
    own.mkdir(exist_ok=True)
    server = RedisServer(own, "--appendfsync", "always", "--lua-time-limit", "200", *_debug_allowed())
    plans = ", ".join(PLAN.format(name=name, dollars=dollars) for name, dollars in PLANS.items())
    with ExitStack() as stack:
        vendor = stack.enter_context(GreedyVendor())
        disk = stack.enter_context(SmallDisk(directory / "data", megabytes=64))
        server.start()
        stack.callback(server.stop)
        config = CONFIG.format(url=vendor.url, plans=plans)
        deployment = Deployment(directory, config, redis_url=server.url, prices=prices_yaml("up"))
        yield stack.enter_context(deployment), server, disk, vendor


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("number", SEEDS)
def test_the_books_balance_whatever_dies_stalls_or_fills_up(tmp_path: Path, number: int) -> None:
    directory = (
        Path(os.environ["CHAOS_KEEP"], f"seed-{number}-{os.getpid()}") if "CHAOS_KEEP" in os.environ else tmp_path
    )
    with deployed(directory) as (deployment, server, disk, vendor):
        plan_of: dict[str, str] = {}
        keys = []
        for plan in PLANS:
            for n in range(KEYS_A_PLAN):
                key, record = deployment.services.keys.create(f"{plan} {n}", plan=plan)
                plan_of[record.key_id] = plan
                keys.append(key)
        faults = Faults(deployment, server, disk, random.Random(number))
        timeline = []
        with Callers(deployment, keys, number) as callers:
            began = time.monotonic()
            for name in faults.schedule():
                time.sleep(faults.pause_s())
                if time.monotonic() - began > SECONDS:
                    break
                timeline.append((round(time.monotonic() - began, 1), name))
                faults.inflict(name)
            timeline.append((round(time.monotonic() - began, 1), "everything_killed"))
            faults.inflict("everything_killed")
            deployment.wait_until(deployment.serving, 30, "the gateway did not come back")
            time.sleep(1.0)  # under load once more
        print(f"\nseed {number}: {timeline}")
        print(f"{len(callers.seen)} calls:", dict(Counter(seen.outcome for seen in callers.seen).most_common()))
        wrong = []
        try:
            deployment.quiet(60)
        except AssertionError as exc:
            wrong.append(str(exc)[:2000])
        deployment.wait_until(deployment.serving, 30, "the gateway is not ready")
        wrong += differences(deployment, plan_of, callers.seen, vendor)
        again = post(deployment.port, chat("plain", "[[after-all-ok]]", max_tokens=5), keys[-1])
        if again.status != 200:
            wrong.append(f"afterwards a call got {again.status}: {again.body[:200]!r}")
        deployment.quiet(30)
        print("\n".join(wrong) or "nothing is wrong")
        print("ended by themselves:", dict(deployment.ended))
    assert wrong == []
    assert deployment.ended == {}


def differences(
    deployment: Deployment, plan_of: dict[str, str], seen: list[CallOutcome], vendor: GreedyVendor
) -> list[str]:
    """Everything that should not be, a line each."""
    rows = deployment.server.rows()
    by_request = Counter(row["request_id"] for row in rows)
    call_ids = {row["call_id"] for row in rows}
    bills = vendor.bills()
    wrong = deployment.mismatches()
    booked = deployment.booked()
    for key_id, plan in plan_of.items():
        spent = booked[key_id].nanousd / 1e9 if key_id in booked else 0.0
        counted = deployment.counted().get((key_id, "budget_usd_per_day"), 0) / 1e9
        if max(spent, counted) > PLANS[plan]:
            wrong.append(f"{plan}: {spent} in the ledger, {counted} counted, of {PLANS[plan]}")
    wrong += _some("answered, rows", [s.request_id for s in seen if s.answered and by_request[s.request_id] != 1])
    wrong += _some("more than one row", [name for name, count in by_request.items() if count > 1])
    unique = {s.mark for s in seen if "same" not in s.mark}
    wrong += _some("at the vendor, and no row", [mark for mark in bills if mark in unique and by_request[mark] != 1])
    wrong += _some("settled in Redis, and no row", [call for call in _settled(deployment) if call not in call_ids])
    wrong += _some("a server error of our own", [s.request_id for s in seen if s.outcome.startswith("500")])
    wrong += _some("no answer in time", [s.request_id for s in seen if s.outcome.startswith("no answer")])
    jobs = [s.job for s in seen if s.job]
    wrong += _some("jobs without a row", [job_id for job_id, _ in jobs if job_id not in call_ids])
    states = ((job_id, ask(deployment.port, f"/v1/requests/{job_id}", key)) for job_id, key in jobs)
    ended = ("completed", "failed", "cancelled")
    wrong += _some("jobs that did not end", [i for i, found in states if found.json.get("status") not in ended])
    with sqlite3.connect(deployment.data_dir / "ledger.db") as database:
        wrong += _some("dead letters", [row[0] for row in database.execute("select reason from dead_letter")])
    database.close()
    wrong += [f"{count} × {last}" for last, count in Counter(deployment.tracebacks()).most_common()]
    buses = sum(text.count("SIGBUS") for text in deployment.logs().values())
    wrong += [f"{buses} × SIGBUS"] if buses else []
    billed = sum(bill.nanousd for attempts in bills.values() for bill in attempts)
    total = sum(each.nanousd for each in booked.values())
    print(f"{len(rows)} rows: {dict(Counter(row['status'] for row in rows))}, {len(jobs)} jobs")
    print(f"the vendor bills ${billed / 1e9:.4f}, the ledger has ${total / 1e9:.4f}")
    return wrong


def _some(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {len(names)}, such as {names[:5]}"] if names else []


def _settled(deployment: Deployment) -> list[str]:
    """Calls that Redis still remembers as settled."""
    redis = deployment.services.redis
    names = redis.execute("KEYS", "penstock:reservation:*")
    states = redis.pipeline([("HGET", name, "s") for name in names]) if names else []
    return [
        name.decode().rpartition(":")[2]
        for name, state in zip(names, states, strict=True)
        if state in (b"settled", b"lost")
    ]


def _debug_allowed() -> list[str]:
    """From version 7 on DEBUG has to be asked for; before it, the option is unknown."""
    said = subprocess.run([find_redis(), "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    major = int(said.partition("v=")[2].partition(".")[0])
    return ["--enable-debug-command", "yes"] if major >= 7 else []
