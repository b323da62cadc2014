"""Gateways are reloaded and replaced under load: no call fails, no stream is cut, and each has one row."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.e2e.compose.installation import Installation
from tests.support.servers import wait_for

pytestmark = [pytest.mark.compose, pytest.mark.timeout(300)]
WORDS = " ".join(f"word{number}" for number in range(200))  # the demo model takes 20 ms a word: four seconds


@dataclass
class Load:
    """The outcomes of callers. Lists, since callers are threads: two that add to a counter at once can count as one."""

    statuses: list[int] = field(default_factory=list)
    ends: list[bytes] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.statuses) + len(self.ends)


@contextmanager
def under_load(penstock: Installation, key: str) -> Iterator[Load]:
    """Four callers and six streams, one after the other, as long as the block lasts; then each finishes its last."""
    load = Load()
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            load.statuses.append(penstock.chat(key)[0])

    def stream() -> None:
        while not stop.is_set():
            load.ends.append(penstock.stream(key, WORDS)[-1][1])

    with ThreadPoolExecutor(10) as pool:
        running: list[Future[None]] = [pool.submit(call) for _ in range(4)] + [pool.submit(stream) for _ in range(6)]
        try:
            wait_for(lambda: len(load.statuses) >= 10 or any(each.done() for each in running))
            yield load
            wait_for(lambda: len(load.ends) >= 12 or any(each.done() for each in running), timeout_s=60)
        finally:
            stop.set()
        for each in running:
            each.result()


def workers(penstock: Installation) -> set[str]:
    """The gunicorn processes of the one gateway, without their master."""
    [container] = penstock.inspect("gateway")
    rows = [
        line.split() for line in penstock.run("docker", "top", container["Id"], "-eo", "pid,ppid").decode().splitlines()
    ]
    parents = Counter(parent for _, parent in rows[1:])
    master = parents.most_common(1)[0][0]
    return {pid for pid, parent in rows[1:] if parent == master}


def test_a_reload_under_load_cuts_nothing(penstock: Installation) -> None:
    key = penstock.create_key("reloaded")
    before = workers(penstock)
    with under_load(penstock, key) as load:
        penstock.reload_gateways()
        wait_for(lambda: not before & workers(penstock), timeout_s=60, message="the old workers stayed")
    print(f"{Counter(load.statuses)} {Counter(load.ends)}")
    assert set(load.statuses) == {200}
    assert set(load.ends) == {b"[DONE]"}
    penstock.wait_for_calls("reloaded", load.calls)


def test_a_gateway_replaced_under_load_cuts_nothing(penstock: Installation) -> None:
    key = penstock.create_key("replaced")
    [old] = penstock.inspect("gateway")
    penstock.up("--scale", "gateway=2", "--no-recreate")
    with under_load(penstock, key) as load:
        penstock.run("docker", "stop", "--time", "80", old["Id"])
        penstock.run("docker", "rm", old["Id"])
    print(f"{Counter(load.statuses)} {Counter(load.ends)}")
    assert set(load.statuses) == {200}
    assert set(load.ends) == {b"[DONE]"}
    penstock.wait_for_calls("replaced", load.calls)
