"""Comparison with another gateway: the same few calls on the same vendor by turns, on the same machine."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from bench.environment import Environment
from bench.measure import Figures, cpu_s, find_problem, is_void, load, memory_mb, record, timings
from bench.peers import Peer, running
from bench.scenarios import SCENARIOS, Scenario

_OUR_CALLS = 2000


@dataclass
class Comparison:
    """The results of one peer. Mutable: rounds add to it.

    `failure`: the reason if it did not run at all; `problems`: by scenario; `void`: the scenarios whose figures say
    nothing because of them.
    """

    theirs: Figures = field(default_factory=dict)
    ours: Figures = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    void: list[str] = field(default_factory=list)
    start_s: float = 0.0
    idle_mb: float = 0.0
    after_mb: float = 0.0
    failure: str = ""


def compare(peer: Peer, env: Environment, directory: Path, rounds: int) -> Comparison:
    found = Comparison()
    started = time.perf_counter()
    try:
        with running(peer, env.upstream.url, directory) as (process, port):
            found.start_s = time.perf_counter() - started
            found.idle_mb = memory_mb(process)
            for number in range(rounds + 1):
                for scenario in _peer_scenarios(peer):
                    _measure_both(found, peer, env, process, port, scenario, keep=number > 0)  # the first is a warm-up
            found.after_mb = memory_mb(process)
    except (OSError, subprocess.SubprocessError, AssertionError, psutil.Error) as exc:
        found.failure = f"did not run: {str(exc)[:200]}"
    return found


def _peer_scenarios(peer: Peer) -> list[Scenario]:
    return [replace(known, calls=peer.scenarios[known.name]) for known in SCENARIOS if known.name in peer.scenarios]


def _measure_both(
    found: Comparison,
    peer: Peer,
    env: Environment,
    process: psutil.Process,
    port: int,
    scenario: Scenario,
    *,
    keep: bool,
) -> None:
    ours = env.gateway.master_pid
    # As few calls as the slowest peer gets would make ours a matter of a clock's ticks.
    more = scenario if scenario.is_stream else replace(scenario, calls=_OUR_CALLS)
    turns = (
        (
            found.theirs,
            process,
            port,
            peer.key,
            replace(scenario, path=peer.path),
            peer.headers(env.upstream.url),
        ),
        (found.ours, psutil.Process(ours), env.gateway.port, env.keys[scenario.key], more, ""),
    )
    for figures, tree, at, key, asked, headers in turns:
        before = cpu_s(tree)
        result = load(at, asked, key, headers=headers)
        if figures is found.ours:
            env.gateway.drained(120)
        wrong = find_problem(asked, result)
        if wrong and figures is found.ours:
            raise SystemExit(f"{scenario.name}, next to {peer.name}: {wrong}")
        if wrong and wrong not in found.problems.setdefault(scenario.name, []):
            found.problems[scenario.name].append(wrong)
        if wrong and is_void(asked, result):
            found.void.append(scenario.name)
        if keep:
            spent = (cpu_s(tree) - before) * 1000 / asked.calls
            record(figures, scenario, {"gateway": spent, **timings(result, None)})
