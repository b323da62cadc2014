"""Faults of a deployment, one method each: a fault is over when its method returns."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from tests.support.deployment import Deployment
from tests.support.servers import RedisServer
from tests.support.small_disk import SmallDisk

# In this order where there is not time for all.
FIRST = (
    "redis_stopped",
    "disk_full_and_redis_stopped",
    "redis_busy",
    "gateway_worker_killed",
    "redis_killed",
    "redis_paused",
    "disk_full",
)
REST = (
    "gateway_worker_stopped",
    "gateway_killed",
    "worker_killed",
    "ledger_killed",
    "redis_writes_paused",
    "redis_cut_off",
    "redis_asleep",
    "redis_read_only",
    "redis_stopped",
    "redis_paused",
    "everything_killed",
)


class Faults:
    """`rng` decides how long, and who."""

    def __init__(self, deployment: Deployment, server: RedisServer, disk: SmallDisk, rng: random.Random) -> None:
        self._deployment = deployment
        self._server = server
        self._disk = disk
        self._rng = rng

    def schedule(self) -> Iterator[str]:
        """Names without end: every fault once, then all of them again in another order."""
        yield from (name for name in FIRST if self.possible(name))
        rest = [name for name in REST if self.possible(name)]
        while True:
            self._rng.shuffle(rest)
            yield from rest
            rest = [name for name in FIRST + REST if self.possible(name)]

    def possible(self, name: str) -> bool:
        return self._disk.mounted or not name.startswith("disk")

    def pause_s(self) -> float:
        """Between two of them."""
        return self._rng.uniform(0.3, 1.5)

    def inflict(self, name: str) -> None:
        getattr(self, name)()

    def gateway_worker_killed(self) -> None:
        self._signal_a_worker(signal.SIGKILL)

    def gateway_worker_stopped(self) -> None:
        """Shorter, or longer, than it takes to be declared lost."""
        stopped = self._signal_a_worker(signal.SIGSTOP)
        self._wait(1.0, 5.0)
        for pid in stopped:
            _signal(pid, signal.SIGCONT)

    def gateway_killed(self) -> None:
        self._deployment.kill("gateway")

    def worker_killed(self) -> None:
        self._deployment.kill("worker")

    def ledger_killed(self) -> None:
        self._deployment.kill("ledger")

    def everything_killed(self) -> None:
        self._server.kill()
        self._deployment.kill()
        self._server.start()

    def redis_killed(self) -> None:
        self._server.kill()
        self._wait(0.2, 2.0)
        self._server.start()

    def redis_stopped(self) -> None:
        self._server.suspend()
        try:
            self._wait(2.0, 4.0)
        finally:
            self._server.resume()

    def redis_paused(self) -> None:
        self._pause("ALL")

    def redis_writes_paused(self) -> None:
        self._pause("WRITE")

    def redis_cut_off(self) -> None:
        """Every connection, several times."""
        for _ in range(5):
            self._ask("CLIENT", "KILL", "TYPE", "normal")
            self._wait(0.05, 0.3)

    def redis_busy(self) -> None:
        """A script that does not end: everything is answered with BUSY."""
        endless = threading.Thread(target=self._ask, args=("EVAL", "while true do end", 0))
        endless.start()
        self._wait(1.0, 3.0)
        self._ask("SCRIPT", "KILL")
        endless.join(10)

    def redis_asleep(self) -> None:
        self._ask("DEBUG", "SLEEP", str(self._rng.uniform(1.0, 3.0)))

    def redis_read_only(self) -> None:
        """As after a fail-over. A replica of nobody: it keeps what it has."""
        self._ask("REPLICAOF", "127.0.0.1", "1")
        try:
            self._wait(1.0, 3.0)
        finally:
            self._ask("REPLICAOF", "NO", "ONE")

    def disk_full(self) -> None:
        with self._full_disk():
            self._wait(2.0, 4.0)

    def disk_full_and_redis_stopped(self) -> None:
        with self._full_disk():
            self.redis_stopped()
            self._wait(0.5, 1.5)

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        self._disk.fill()
        try:
            yield
        finally:
            self._disk.free()

    def _pause(self, what: str) -> None:
        ms = self._rng.randint(1000, 3000)
        self._ask("CLIENT", "PAUSE", str(ms), what)
        time.sleep(ms / 1000)

    def _signal_a_worker(self, number: signal.Signals) -> list[int]:
        """The pid of the one it was sent to; none when no worker is there."""
        chosen = self._rng.sample(pids, 1) if (pids := self._deployment.gateway_workers()) else []
        for pid in chosen:
            _signal(pid, number)
        return chosen

    def _ask(self, *command: str | int) -> None:
        client = redis.Redis.from_url(self._server.url, socket_timeout=15)
        try:
            client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError:
            pass  # a killed script's error, or our own connection that was cut off
        finally:
            client.close()

    def _wait(self, shortest_s: float, longest_s: float) -> None:
        time.sleep(self._rng.uniform(shortest_s, longest_s))


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
