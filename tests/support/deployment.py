"""A whole Penstock: gateway, queue worker and ledger process, any of which may be killed at any time and comes back.

Each is the leader of a process group of its own and writes a log of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from app.errors import GatewayError
from app.gateway.limits import LIMITS
from app.store.spool_files import backlog
from tests.support.servers import ROOT, Gateway

_COMMANDS = {
    "gateway": ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"],
    "worker": ["dramatiq-gevent", "app.jobs.worker", "--processes", "1", "--threads", "20"],
    "ledger": ["flask", "--app", "app", "ledger", "run"],
}
# The end of a traceback; pretty logs indent it as a whole.
_EXCEPTION = re.compile(r"^ {0,4}((?:[a-z_]\w*\.)*[A-Z]\w*(?:: .*)?)$", re.MULTILINE)


class LedgerTotals(NamedTuple):
    """The ledger's totals for one key."""

    requests: int
    tokens: int
    nanousd: int


class Deployment:
    """`with Deployment(directory, config, redis_url=…) as deployment`. Processes that end are started again.

    `ended` counts processes that ended by themselves, by name: those that `kill` ended are not among them.
    `tree` is the source tree that is run.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        *,
        redis_url: str,
        prices: str = "",
        workers: int = 2,
        tree: Path = ROOT,
    ) -> None:
        self._logs = directory / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        # Never entered: its processes would be its own. It knows the environment, the keys and the rows.
        self.server = Gateway(directory, config, redis_url=redis_url, prices=prices, workers=workers, tree=tree)
        self.port = self.server.port
        self.services = self.server.services
        self.data_dir = Path(self.server.env["DATA_DIR"])
        self.ended = Counter[str]()
        self._workers = workers
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._changing = threading.RLock()
        self._over = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> Deployment:
        self.services.database.migrate()
        for name in _COMMANDS:
            self._start(name)
        self.wait_until(self.serving, 30, "the gateway did not become ready")
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.services.close()

    def kill(self, *names: str) -> None:
        """SIGKILL to all of each; by default of everything. The supervisor starts it again."""
        with self._changing:
            for name in names or _COMMANDS:
                process = self._running.pop(name, None)
                if process is not None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)

    def suspend(self, name: str) -> None:
        """Leaves the process there, but doing nothing."""
        self._running[name].send_signal(signal.SIGSTOP)

    def power_off(self) -> None:
        """SIGKILL to everything, and nothing is started again."""
        self._over.set()
        self._supervisor.join()
        self.kill()

    def gateway_workers(self) -> list[int]:
        """The pids of gunicorn's workers; none while it is away."""
        with self._changing:
            process = self._running.get("gateway")
            if process is None:
                return []
            try:
                return [child.pid for child in psutil.Process(process.pid).children()]
            except psutil.NoSuchProcess:
                return []

    def serving(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.server.url}/ready", timeout=2) as answer:
                return bool(answer.status == 200) and len(self.gateway_workers()) == self._workers
        except (urllib.error.URLError, OSError):
            return False

    def logs(self) -> dict[str, str]:
        """Everything that each process has ever written."""
        return {path.stem: path.read_text(errors="replace") for path in sorted(self._logs.glob("*.log"))}

    def tracebacks(self) -> list[str]:
        """The exception of every traceback in a log, with the log's name."""
        found = []
        for name, text in self.logs().items():
            for each in text.split("Traceback (most recent call last)")[1:]:
                # A JSON log has a traceback in one line. Lines of other processes may be among those of this one.
                exception = _EXCEPTION.search(each.replace("\\n", "\n"))
                found.append(f"{name}: {exception[1][:100] if exception else '?'}")
        return found

    def quiet(self, timeout_s: float) -> None:
        """Waits until every call has ended, in Redis and in the database. Raises `AssertionError` after `timeout_s`."""
        self.wait_until(lambda: not self.unsettled(), timeout_s, lambda: f"unsettled: {self.unsettled()}")

    def unsettled(self) -> dict[str, Any]:
        """Returns the rows still on their way to the ledger, by place."""
        redis = self.services.redis
        found: dict[str, Any] = {}
        try:
            for pattern in ("penstock:reservations:*", "penstock:running:*"):
                for name in redis.execute("KEYS", pattern):
                    if calls := redis.execute("ZRANGE", name, 0, -1):
                        found[name.decode()] = calls
            held = [name for name in redis.execute("KEYS", "penstock:reservation:*") if _is_open(redis, name)]
            depth = self.services.queue.depth()
            found |= {
                "open": held,
                "outbox": self.services.outbox.depth(),
                "jobs": depth.waiting + depth.running,
                "spool": backlog(self.data_dir / "spool").bytes,
            }
        except GatewayError as exc:
            return {"redis": str(exc)}
        return {name: what for name, what in found.items() if what}

    def booked(self) -> dict[str, LedgerTotals]:
        """By key id, what the ledger's rows add up to."""
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for row in self.server.rows():
            each = sums[row["key_id"]]
            each[0] += 1
            each[1] += row["prompt_tokens"] + row["completion_tokens"]
            each[2] += row["cost_nanousd"]
        return {key_id: LedgerTotals(*each) for key_id, each in sums.items()}

    def counted(self) -> dict[tuple[str, str], int]:
        """By key id and limit, what the counters of days and months stand at."""
        redis = self.services.redis
        found = Counter[tuple[str, str]]()
        names = {limit.name for limit in LIMITS if limit.kind == "window"}
        for counter in redis.execute("KEYS", "penstock:limit:*"):
            _, _, key_id, name, *_ = counter.decode().split(":")
            if name in names:
                found[key_id, name] += int(redis.execute("GET", counter))
        return dict(found)

    def mismatches(self) -> list[str]:
        """Every counter that is not the sum of the ledger's rows."""
        booked, units = self.booked(), {limit.name: limit.unit for limit in LIMITS}
        found = []
        for (key_id, name), value in sorted(self.counted().items()):
            rows = getattr(booked.get(key_id, LedgerTotals(0, 0, 0)), units[name])
            if value != rows:
                found.append(f"{key_id} {name}: counter {value}, rows {rows}, difference {value - rows:+}")
        return found

    def wait_until(self, what: Callable[[], object], timeout_s: float, message: str | Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, message() if callable(message) else message
            time.sleep(0.05)

    def _start(self, name: str) -> None:
        command = _COMMANDS[name]
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                cwd=self.server.tree,
                env=self.server.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        """As a container engine does: what ended is started again, at most twice a second."""
        while not self._over.wait(0.5):
            with self._changing:
                for name in _COMMANDS:
                    process = self._running.get(name)
                    if process is not None and process.poll() is None:
                        continue
                    if process is not None:
                        self.ended[name] += 1
                        with suppress(ProcessLookupError):
                            os.killpg(process.pid, signal.SIGKILL)  # its children, if it left any
                    self._start(name)


def _is_open(redis: Any, reservation: bytes) -> bool:
    return bool(redis.execute("HGET", reservation, "s") == b"open")


def table(rows: Mapping[str, tuple[Any, ...]], columns: tuple[str, ...]) -> str:
    """Rows of figures as text, for what a long run prints."""
    lines = [("", *columns), *((name, *(str(each) for each in row)) for name, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
