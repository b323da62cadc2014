"""Benchmark report: the figures as a page, as JSON, and as a bar chart, `bench/report.{md,json,svg}`."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import psutil

from bench.compare import Comparison
from bench.scenarios import SCENARIOS
from tests.support.servers import ROOT

_HELLO = SCENARIOS[0].name
_PROCESSES = ("gateway", "nginx", "redis", "ledger", "vendor", "generator")


def write_report(
    figures: dict[str, dict[str, list[float]]],
    peers: dict[str, Comparison],
    *,
    start_s: float,
    memory_mb: dict[str, float],
    rounds: int,
) -> None:
    medians = {name: _medians(row) for name, row in figures.items()}
    page = [
        "# Benchmark",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {psutil.cpu_count()} cores",
        f"shared by everything (load average {os.getloadavg()[1]:.1f}), 2 workers, medians of {rounds} alternating",
        "rounds. Every feature on: key, limits for requests, tokens, budget and concurrency, prices, cache look-up,",
        "ledger, metrics, logs.",
        "",
        "## CPU, ms a call, of whole process trees",
        "",
        f"| scenario | × hello | {' | '.join(_PROCESSES)} | lowest to highest |",
        "|---|---|" + "---|" * (len(_PROCESSES) + 1),
        *(_cpu_row(name, medians, figures) for name in figures),
        "",
        "![CPU a call](report.svg)",
        "",
        "## Time, ms",
        "",
        "Added: to the same load sent to the vendor directly. Lateness: how long after its due time a chunk came.",
        "",
        "| scenario | calls/s | p50 | p99 | added p50 | added p99 | first chunk added p50, p99 | chunk lateness p99 |",
        "|---|---|---|---|---|---|---|---|",
        *(_time_row(name, row) for name, row in medians.items()),
        "",
        f"Started and ready in {start_s:.1f} s. Memory of the gateway's tree (PSS): "
        + ", ".join(f"{when} {mb:.0f} MB" for when, mb in memory_mb.items())
        + ".",
        "",
        *_peers(peers),
    ]
    text = "\n".join(page) + "\n"
    (ROOT / "bench" / "report.md").write_text(text)
    known = {"figures": figures, "peers": {name: asdict(found) for name, found in peers.items()}}
    (ROOT / "bench" / "report.json").write_text(json.dumps(known, indent=1) + "\n")
    (ROOT / "bench" / "report.svg").write_text(_bar_chart({name: row["gateway"] for name, row in medians.items()}))
    print(text)


def add_section(title: str, lines: list[str]) -> None:
    """Appends a section to the report, in place of an older one with this title."""
    path = ROOT / "bench" / "report.md"
    text = path.read_text().partition(f"\n## {title}\n")[0]
    path.write_text("\n".join([text.rstrip("\n"), "", f"## {title}", "", *lines]) + "\n")
    print("\n".join(lines))


def _medians(row: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in row.items() if values}


def _cpu_row(name: str, medians: dict[str, dict[str, float]], figures: dict[str, dict[str, list[float]]]) -> str:
    row, all_rounds = medians[name], figures[name]["gateway"]
    cells = [f"{row[process]:.3f}" if row.get(process, 0) >= 0.0005 else "–" for process in _PROCESSES]
    ratio = row["gateway"] / medians[_HELLO]["gateway"]
    return f"| {name} | {ratio:.2f} | {' | '.join(cells)} | {min(all_rounds):.3f}–{max(all_rounds):.3f} |"


def _time_row(name: str, row: dict[str, float]) -> str:
    first = "–"
    if row.get("first_p50_ms") and "added_first_p50_ms" in row:
        first = f"{row['added_first_p50_ms']:.1f}, {row['added_first_p99_ms']:.1f}"
    added = [f"{row[key]:.1f}" if key in row else "–" for key in ("added_latency_p50_ms", "added_latency_p99_ms")]
    late = f"{row['late_p99_ms']:.1f}" if row.get("first_p50_ms") else "–"
    own = f"{row['per_second']:.0f} | {row['latency_p50_ms']:.1f} | {row['latency_p99_ms']:.1f}"
    return f"| {name} | {own} | {added[0]} | {added[1]} | {first} | {late} |"


def _peers(peers: dict[str, Comparison]) -> list[str]:
    if not peers:
        return []
    return [
        "## Peers, in the same run",
        "",
        "Each by turns with ours, on the same vendor, with the same few calls; × ours is of those turns. Where calls",
        "or chunks are missing there is no figure: an error is cheaper than an answer.",
        "",
        "| gateway | scenario | CPU ms a call | ours | × ours | calls/s | p99 ms | first chunk p99 ms | what failed |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line for peer, found in peers.items() for line in _peer_rows(peer, found)),
        "",
        "| gateway | started in s | MB (PSS), idle | after the load |",
        "|---|---|---|---|",
        *(
            f"| {peer} | {found.start_s:.1f} | {found.idle_mb:.0f} | {found.after_mb:.0f} |"
            for peer, found in peers.items()
            if not found.failure
        ),
    ]


def _peer_rows(peer: str, found: Comparison) -> list[str]:
    if found.failure:
        return [f"| {peer} | | | | | | | | {found.failure} |"]
    lines = []
    for name, values in found.theirs.items():
        theirs, ours = _medians(values), _medians(found.ours[name])["gateway"]
        failed = "; ".join(found.problems.get(name, []))
        first = f"{theirs['first_p99_ms']:.0f}" if theirs["first_p99_ms"] else "–"
        figures = (
            f"– | {ours:.2f} | – | – | – | –"
            if name in found.void
            else f"{theirs['gateway']:.2f} | {ours:.2f} | {theirs['gateway'] / ours:.1f} | "
            f"{theirs['per_second']:.0f} | {theirs['latency_p99_ms']:.0f} | {first}"
        )
        lines.append(f"| {peer} | {name} | {figures} | {failed} |")
    return lines


def _bar_chart(values: dict[str, float]) -> str:
    """Returns an SVG with a bar for each scenario."""
    most = max(values.values())
    height = 24 * len(values) + 10
    parts: list[Any] = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" font-family="sans-serif" '
        'font-size="13">'
    ]
    for i, (name, value) in enumerate(values.items()):
        y, width = 8 + 24 * i, 380 * value / most
        parts.append(
            f'<text x="250" y="{y + 13}" text-anchor="end">{name}</text>'
            f'<rect x="260" y="{y}" width="{width:.1f}" height="17" fill="#2a6f97"/>'
            f'<text x="{266 + width:.1f}" y="{y + 13}">{value:.2f} ms</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
