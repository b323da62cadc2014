"""One measurement: a load on a port, whether its results can be believed, and what they say in figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import psutil

from bench.scenarios import Scenario
from tests.support.servers import ROOT

Figures = dict[str, dict[str, list[float]]]  # scenario, figure, a value for each round


def load(port: int, scenario: Scenario, key: str, *, tls: bool = False, headers: str = "") -> dict[str, Any]:
    """One run of the load generator. Its results, see `bench.load`."""
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


def problem(scenario: Scenario, result: dict[str, Any]) -> str:
    """What makes `result` unfit to be believed; "" when nothing does."""
    if result["statuses"] != {scenario.status: scenario.calls}:
        return f"expected {scenario.calls} × {scenario.status}, got {result['statuses']}"
    if scenario.is_stream and (result["chunks"], result["done"]) != (scenario.chunks * scenario.calls, scenario.calls):
        lost = scenario.chunks * scenario.calls - result["chunks"]
        return f"{lost} chunks lost, {result['done']} of {scenario.calls} streams ended with [DONE]"
    return ""


def is_void(scenario: Scenario, result: dict[str, Any]) -> bool:
    """Whether calls or chunks are missing, so that its cost says nothing: an error is cheaper than an answer."""
    return bool(
        result["statuses"] != {scenario.status: scenario.calls}
        or (scenario.is_stream and result["chunks"] != scenario.chunks * scenario.calls)
    )


def timings(result: dict[str, Any], direct: dict[str, Any] | None) -> dict[str, float]:
    """As measured, and what was added to the same load on the vendor itself."""
    names = [name for name in result if name.endswith("_ms") or name == "per_second"]
    found = {name: float(result[name]) for name in names}
    if direct is not None:
        found |= {f"added_{name}": result[name] - direct[name] for name in names if name != "per_second"}
    return found


def note(figures: Figures, scenario: Scenario, row: dict[str, float]) -> None:
    for name, value in row.items():
        figures.setdefault(scenario.name, {}).setdefault(name, []).append(value)


def cpu_s(process: psutil.Process) -> float:
    """User and system time of a process and its children."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def memory_mb(process: psutil.Process) -> float:
    """Of a process and its children; what they share is counted once (PSS)."""
    return sum(float(each.memory_full_info().pss) for each in [process, *process.children(recursive=True)]) / 1e6
