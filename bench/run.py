"""`make bench`: what a call costs the gateway, all features on, next to a bare Flask "hello" in the same run.

CPU, not time: steady on a noisy machine. Rounds alternate between the scenarios; the report has medians. Nothing is
believed before statuses and chunks are checked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

from bench.measure import Figures, cpu_s, load, note, problem, timings
from bench.peers import PEERS, Peer, running
from bench.report import write
from bench.scenarios import SCENARIOS, Scenario
from bench.site import Site
from tests.support.upstream import Upstream

ROUNDS = int(os.environ.get("ROUNDS", "5"))


def measure(site: Site, figures: Figures, scenario: Scenario, *, keep: bool) -> None:
    direct = load(site.upstream.port, scenario, "") if scenario.direct else None
    before = site.used(scenario)
    result = load(site.port(scenario), scenario, site.keys.get(scenario.key, "pstk_wrong"), tls=scenario.at == "edge")
    if not scenario.is_yardstick:
        site.gateway.drained(120)
    wrong = problem(scenario, result)
    if wrong:
        raise SystemExit(f"{scenario.name}: {wrong}")
    if keep:
        note(figures, scenario, {
            **{name: (now - before[name]) * 1000 / scenario.calls for name, now in site.used(scenario).items()},
            "generator": result["cpu_s"] * 1000 / scenario.calls, **timings(result, direct),
        })  # fmt: skip


def measure_peer(peer: Peer, upstream: Upstream, directory: Path) -> Figures | str:
    """Its figures in the same scenarios, with fewer calls; or why there are none."""
    figures: Figures = {}
    try:
        with running(peer, upstream.url, directory) as (process, port):
            for number in range(max(ROUNDS // 2, 1) + 1):
                for known in SCENARIOS:
                    if known.name not in peer.scenarios:
                        continue
                    scenario = replace(known, calls=peer.scenarios[known.name], path=peer.path)
                    before = cpu_s(process)
                    result = load(port, scenario, "sk-bench", headers=peer.headers(upstream.url))
                    wrong = problem(scenario, result)
                    if number or wrong:
                        note(figures, scenario, {
                            "gateway": (cpu_s(process) - before) * 1000 / scenario.calls, **timings(result, None),
                        })  # fmt: skip
                    if wrong:
                        figures[scenario.name]["problem: " + wrong] = []
    except (OSError, subprocess.SubprocessError, AssertionError, psutil.Error) as exc:
        return f"did not run: {str(exc)[:200]}"
    return figures


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    figures: Figures = {}
    peers: dict[str, Figures | str] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        site = Site(stack, Path(name))
        idle_mb = site.memory_mb()
        for number in range(ROUNDS + 1):
            for scenario in SCENARIOS:
                measure(site, figures, scenario, keep=number > 0)  # the first round is a warm-up
            print(f"round {number} of {ROUNDS}", file=sys.stderr)
        memory = {"idle": idle_mb, "after all rounds": site.memory_mb()}
        for peer in PEERS if "peers" in sys.argv[1:] else ():
            print(peer.name, file=sys.stderr)
            peers[peer.name] = measure_peer(peer, site.upstream, Path(name))
        write(figures, peers, start_s=site.start_s, memory_mb=memory, rounds=ROUNDS)


if __name__ == "__main__":
    main()
