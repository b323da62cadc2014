"""`make bench`: what a call costs the gateway, all features on, next to a bare Flask "hello" in the same run.

CPU, not time: steady on a noisy machine. Rounds alternate between the scenarios; the report has medians. Nothing is
believed before statuses and chunks are checked.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.compare import Compared, compare
from bench.measure import Figures, load, note, problem, timings
from bench.peers import PEERS
from bench.report import write
from bench.scenarios import SCENARIOS, Scenario
from bench.site import WorkerState

ROUNDS = int(os.environ.get("ROUNDS", "5"))


def measure(site: WorkerState, figures: Figures, scenario: Scenario, *, keep: bool) -> None:
    direct = load(site.upstream.port, scenario, "") if scenario.direct else None
    before = site.used(scenario)
    result = load(site.port(scenario), scenario, site.keys.get(scenario.key, "pstk_wrong"), tls=scenario.at == "edge")
    if not scenario.is_yardstick:
        site.gateway.drained(120)
    wrong = problem(scenario, result)
    if wrong:
        raise SystemExit(f"{scenario.name}: {wrong}")
    if keep:
        note(
            figures,
            scenario,
            {
                **{name: (now - before[name]) * 1000 / scenario.calls for name, now in site.used(scenario).items()},
                "generator": result["cpu_s"] * 1000 / scenario.calls,
                **timings(result, direct),
            },
        )


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures: Figures = {}
    peers: dict[str, Compared] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        site = WorkerState(stack, Path(name))
        idle_mb = site.memory_mb()
        for number in range(ROUNDS + 1):
            for scenario in SCENARIOS:
                measure(site, figures, scenario, keep=number > 0)  # the first round is a warm-up
            print(f"round {number} of {ROUNDS}", file=sys.stderr)
        memory = {"idle": idle_mb, "after all rounds": site.memory_mb()}
        for peer in PEERS if "peers" in sys.argv[1:] else ():
            print(peer.name, file=sys.stderr)
            peers[peer.name] = compare(peer, site, Path(name), ROUNDS)
        write(figures, peers, start_s=site.start_s, memory_mb=memory, rounds=ROUNDS)


if __name__ == "__main__":
    main()
