"""Benchmark, `make bench`: CPU of a call in the gateway, all features on, next to a bare Flask "hello" in the same run.

CPU, not time: it is steady on a noisy machine. Rounds alternate between the scenarios; the report has medians.
Nothing is believed before statuses and chunks are checked.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.compare import Comparison, compare
from bench.environment import Environment
from bench.measure import Figures, find_problem, load, record, timings
from bench.peers import PEERS
from bench.report import write_report
from bench.scenarios import SCENARIOS, Scenario

ROUNDS = int(os.environ.get("ROUNDS", "5"))


def measure(env: Environment, figures: Figures, scenario: Scenario, *, keep: bool) -> None:
    direct = load(env.upstream.port, scenario, "") if scenario.direct else None
    before = env.cpu_seconds(scenario)
    result = load(
        env.port(scenario),
        scenario,
        env.keys.get(scenario.key, "pstk_wrong"),
        tls=scenario.at == "edge",
    )
    if not scenario.is_yardstick:
        env.gateway.drained(120)
    wrong = find_problem(scenario, result)
    if wrong:
        raise SystemExit(f"{scenario.name}: {wrong}")
    if keep:
        record(
            figures,
            scenario,
            {
                **{
                    name: (now - before[name]) * 1000 / scenario.calls
                    for name, now in env.cpu_seconds(scenario).items()
                },
                "generator": result["cpu_s"] * 1000 / scenario.calls,
                **timings(result, direct),
            },
        )


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures: Figures = {}
    peers: dict[str, Comparison] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        env = Environment(stack, Path(name))
        idle_mb = env.memory_mb()
        for number in range(ROUNDS + 1):
            for scenario in SCENARIOS:
                measure(env, figures, scenario, keep=number > 0)  # the first round is a warm-up
            print(f"round {number} of {ROUNDS}", file=sys.stderr)
        memory = {"idle": idle_mb, "after all rounds": env.memory_mb()}
        for peer in PEERS if "peers" in sys.argv[1:] else ():
            print(peer.name, file=sys.stderr)
            peers[peer.name] = compare(peer, env, Path(name), ROUNDS)
        write_report(figures, peers, start_s=env.start_s, memory_mb=memory, rounds=ROUNDS)


if __name__ == "__main__":
    main()
