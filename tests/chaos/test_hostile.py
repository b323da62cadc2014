"""Twenty keys with $0.05 each try to spend more, at a vendor that always writes the most it may and bills all of it.

No budget is exceeded, neither by the ledger nor by what the vendor bills, and the ledger has what the vendor bills. The
short form runs with the other tests; the long one:

    HOSTILE_CALLS=5000 .venv/bin/python -m pytest tests/chaos/test_hostile.py -s

`HOSTILE_SEED` are the calls to build, `HOSTILE_KEEP` a directory for the logs and the figures of every call.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.chaos.hostile_calls import MARK, HostileCall, hostile_calls
from tests.support.client import in_parallel
from tests.support.deployment import Deployment, table
from tests.support.greedy import Bill, GreedyVendor
from tests.support.lenient import prices_yaml

CALLS = int(os.environ.get("HOSTILE_CALLS", "400"))
SEED = int(os.environ.get("HOSTILE_SEED", "1"))
KEYS = 20 if CALLS >= 1000 else 8
AT_ONCE = 50
BUDGET_NANOUSD = 50_000_000
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
  named: {{kind: openai, base_url: {url}, prices: openai}}
models:
  plain: {{targets: [{{provider: up}}]}}
  bounded: {{targets: [{{provider: up, model: plain}}], max_output_tokens: 300}}
  pair:
    targets: [{{provider: up, model: plain}}]
    fallbacks: [{{provider: up, model: backup}}]
    max_output_tokens: 1000
  dear: {{targets: [{{provider: up}}]}}
  vectors: {{targets: [{{provider: up}}]}}
  either:
    targets: [{{provider: named, model: gpt-5-nano}}, {{provider: named, model: gpt-5-mini}}]
    fallbacks: [gpt-4.1-nano]
  gpt-4.1-mini: {{targets: [{{provider: named}}]}}
  gpt-4.1-nano: {{targets: [{{provider: named}}]}}
  gpt-5-mini: {{targets: [{{provider: named}}]}}
  gpt-5-nano: {{targets: [{{provider: named}}]}}
  gpt-audio-mini: {{targets: [{{provider: named}}]}}
  text-embedding-3-small: {{targets: [{{provider: named}}]}}
plans:
  default: {{budget_usd_per_day: 0.05, requests_per_day: 1000000, tokens_per_day: 1000000000}}
timeouts: {{connect_s: 2, first_byte_s: 0.7, idle_s: 1, total_s: 8}}
retry: {{backoff_s: 0.05, breaker_threshold: 1000}}
queue: {{retry_backoff_s: 0.1, max_attempts: 2}}
"""


class MadeCall(NamedTuple):
    """A call that was made. `outcome` is its status and code, or how its connection ended."""

    mark: str
    call: HostileCall
    outcome: str


def make(port: int, key: str, mark: str, call: HostileCall) -> MadeCall:
    body = call.body.replace(MARK, f"[[{mark}-{call.manner}]]").encode("utf-8", "surrogatepass")
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "X-Request-ID": mark}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", call.path, body, headers)
        if call.hang_up == 0:
            time.sleep(0.05)  # the vendor has the call, and its answer is not here yet
            return MadeCall(mark, call, "hung up before")
        response = connection.getresponse()
        chunks, first, done = 0, b"", False
        while line := response.readline():
            first = first or line
            done |= line.startswith(b"data: [DONE]")
            chunks += line.startswith(b"data: {")
            if call.hang_up and chunks >= call.hang_up:
                return MadeCall(mark, call, "hung up in between")
        if response.status >= 400:
            return MadeCall(mark, call, f"{response.status} {json.loads(first)['code']}")
        return MadeCall(mark, call, f"{response.status}" if done or not chunks else f"{response.status} broken off")
    except (OSError, http.client.HTTPException) as exc:
        return MadeCall(mark, call, type(exc).__name__)
    finally:
        connection.close()


@pytest.mark.timeout(120 + CALLS // 5)
def test_no_key_overspends_its_budget_and_the_ledger_has_the_vendors_bill(tmp_path: Path, redis_url: str) -> None:
    directory = Path(os.environ["HOSTILE_KEEP"], f"run-{os.getpid()}") if "HOSTILE_KEEP" in os.environ else tmp_path
    calls = hostile_calls(CALLS, SEED)
    with (
        GreedyVendor() as vendor,
        Deployment(directory, CONFIG.format(url=vendor.url), redis_url=redis_url, prices=prices_yaml("up")) as gateway,
    ):
        created = [gateway.services.keys.create(f"key {n}") for n in range(KEYS)]
        key_ids = {f"k{n}": record.key_id for n, (_, record) in enumerate(created)}
        began = time.monotonic()
        made = in_parallel(
            [
                # As many as run at once are one key's: they meet at its budget.
                partial(make, gateway.port, created[n // AT_ONCE % KEYS][0], f"k{n // AT_ONCE % KEYS}-c{n}", call)
                for n, call in enumerate(calls)
            ],
            threads=AT_ONCE,
        )
        took_s = time.monotonic() - began
        gateway.quiet(60)
        bills, rows = vendor.bills(), {row["request_id"]: row for row in gateway.server.rows()}
        counted, mismatches, tracebacks = gateway.counted(), gateway.mismatches(), gateway.tracebacks()
        dead = gateway.services.redis.execute("KEYS", "penstock:reservations:*")

    billed, booked, spent = Counter[str](), Counter[str](), Counter[str]()
    for mark, attempts in bills.items():
        billed[mark.partition("-")[0]] += sum(bill.nanousd for bill in attempts)
    for mark, row in rows.items():
        booked[mark.partition("-")[0]] += row["cost_nanousd"]
    for key, key_id in key_ids.items():
        spent[key] = counted.get((key_id, "budget_usd_per_day"), 0)
    low = [call for call in made if below(bills.get(call.mark, []), rows.get(call.mark))]
    print(f"\n{CALLS} calls of {KEYS} keys, seed {SEED}, {took_s:.0f} s")
    print(report(made, bills, rows))
    print("outcomes:", dict(Counter(call.outcome for call in made).most_common()))
    for name, figures in (("vendor's bill", billed), ("ledger", booked), ("counter", spent)):
        print(f"{name}: {usd(figures.total())}, at most {usd(max(figures.values(), default=0))} for one key")
    if "HOSTILE_KEEP" in os.environ:
        keep(directory / "calls.jsonl", made, bills, rows)

    assert {key: usd(n) for key, n in spent.items() if n > BUDGET_NANOUSD} == {}, "a counter above the budget"
    assert {key: usd(n) for key, n in booked.items() if n > BUDGET_NANOUSD} == {}, "a ledger above the budget"
    assert {key: usd(n) for key, n in billed.items() if n > BUDGET_NANOUSD} == {}, "a vendor's bill above the budget"
    assert [(call.mark, call.call.kind) for call in low] == [], "answered, its usage known, and below the vendor's bill"
    assert booked.total() >= 0.99 * billed.total(), "the ledger misses what the vendor bills"
    assert booked.total() > 0
    assert mismatches == []
    assert dead == [], "reservations are open"
    assert tracebacks == []
    assert gateway.ended == {}


def below(attempts: list[Bill], row: dict[str, Any] | None) -> bool:
    """Tells if the ledger has less for a call than the vendor, although the vendor reported its usage."""
    if not attempts or not attempts[-1].reported:
        return False
    if row is None:
        return True
    return row["status"] == "ok" and not row["estimated"] and row["cost_nanousd"] < attempts[-1].nanousd


def report(made: Iterable[MadeCall], bills: dict[str, list[Bill]], rows: dict[str, dict[str, Any]]) -> str:
    """Calls by kind: how many, at the vendor, billed, booked, and what is missing in the ledger where it is too low."""
    figures: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for call in made:
        attempts, row = bills.get(call.mark, []), rows.get(call.mark)
        bill, cost = sum(each.nanousd for each in attempts), row["cost_nanousd"] if row else 0
        for name in (call.call.kind, "total"):
            for i, value in enumerate((1, len(attempts), bill, cost, max(bill - cost, 0))):
                figures[name][i] += value
    ordered = sorted(figures.items(), key=lambda item: -item[1][4])
    return table(
        {name: (n, at, usd(bill), usd(cost), usd(missing)) for name, (n, at, bill, cost, missing) in ordered},
        ("calls", "at the vendor", "billed", "booked", "missing"),
    )


def keep(path: Path, made: Iterable[MadeCall], bills: dict[str, list[Bill]], rows: dict[str, dict[str, Any]]) -> None:
    """Every call with its figures, the worst first."""
    lines = [
        {
            "missing": sum(b.nanousd for b in bills.get(m.mark, [])) - (rows.get(m.mark) or {}).get("cost_nanousd", 0),
            "mark": m.mark,
            "kind": m.call.kind,
            "outcome": m.outcome,
            "bills": bills.get(m.mark, []),
            "row": rows.get(m.mark),
            "body": m.call.body,
        }
        for m in made
    ]
    lines.sort(key=lambda line: -line["missing"])
    path.write_text("".join(json.dumps(line, default=vars) + "\n" for line in lines))


def usd(nanousd: int) -> str:
    return f"${nanousd / 1e9:.6f}"
