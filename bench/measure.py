"""One measurement: runs the load generator, checks its results, and records them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil

from bench.scenarios import Scenario
from tests.support.servers import ROOT

Figures = dict[str, dict[str, list[float]]]  # by scenario and figure, a value for each round


def load(port: int, scenario: Scenario, key: str, *, tls: bool = False, headers: str = "") -> dict[str, Any]:
    """Runs the load generator. Returns its results, see `bench.load`."""
    body = b"" if scenario.body is None else json.dumps(scenario.body).encode()
    described = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = (
        f"{'POST' if body else 'GET'} {scenario.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {key}\r\n{headers}{described}\r\n"
    )
    command = [
        sys.executable,
        "-m",
        "bench.load",
        str(port),
        str(scenario.calls),
        str(scenario.concurrency),
        str(scenario.chunk_ms),
        str(scenario.every_ms),
        *(["tls"] if tls else []),
    ]
    result = subprocess.run(command, input=head.encode() + body, capture_output=True, cwd=ROOT, check=True, timeout=400)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def find_problem(scenario: Scenario, result: dict[str, Any]) -> str:
    """Returns the reason why `result` is not to be believed; "" if there is none."""
    if result["statuses"] != {scenario.status: scenario.calls}:
        return f"expected {scenario.calls} × {scenario.status}, got {result['statuses']}"
    if scenario.is_stream and (result["chunks"], result["done"]) != (scenario.chunks * scenario.calls, scenario.calls):
        lost = scenario.chunks * scenario.calls - result["chunks"]
        return f"{lost} chunks lost, {result['done']} of {scenario.calls} streams ended as they should"
    return ""


def is_void(scenario: Scenario, result: dict[str, Any]) -> bool:
    """Returns True if calls or chunks are missing: the cost then says nothing, as errors are cheaper."""
    return bool(
        result["statuses"] != {scenario.status: scenario.calls}
        or (scenario.is_stream and result["chunks"] != scenario.chunks * scenario.calls)
    )


def timings(result: dict[str, Any], direct: dict[str, Any] | None) -> dict[str, float]:
    """Returns the times as measured, and what they add to those of the same load on the vendor itself."""
    names = [name for name in result if name.endswith("_ms") or name == "per_second"]
    times = {name: float(result[name]) for name in names}
    if direct is not None:
        times |= {f"added_{name}": result[name] - direct[name] for name in names if name != "per_second"}
    return times


def record(figures: Figures, scenario: Scenario, row: dict[str, float]) -> None:
    """Adds a round's figures."""
    for name, value in row.items():
        figures.setdefault(scenario.name, {}).setdefault(name, []).append(value)


def cpu_s(process: psutil.Process) -> float:
    """Returns the user and system time of a process and its children."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def memory_mb(process: psutil.Process) -> float:
    """Returns the memory of a process and its children; what they share is counted once (PSS)."""
    return sum(float(each.memory_full_info().pss) for each in [process, *process.children(recursive=True)]) / 1e6
