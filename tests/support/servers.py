"""Real servers for the tests: Redis, gunicorn and the ledger process, each started and stopped by its test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.services import Services, build_services
from app.settings import load_settings
from app.store.redis.client import Redis
from scripts.executables import find_redis

ROOT = Path(__file__).parents[2]
DEV_KEY = "dev-key-for-tests"
ADMIN_KEY = "admin-key-for-tests"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[..., Any], *, timeout_s: float = 20.0, message: str = "it did not happen in time") -> Any:
    """Polls `what` until it is true, and returns it."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def need(program: str, package: str) -> None:
    """Skips the test on a machine without `program`, which CI must have."""
    if shutil.which(program) is None:
        assert not os.environ.get("CI"), f"{program} has to be there in CI"
        pytest.skip(f"{program} is not installed (Debian: {package})")


class RedisServer:
    """A real redis-server with an append-only file: it can be killed and come back. `options` are further arguments."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            find_redis(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self._directory),
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--loglevel",
            "warning",
            *self._options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self._answers, message="redis-server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """As a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def suspend(self) -> None:
        """Alive, but answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(5) == b"+PONG"
        except OSError:
            return False


class Gateway:
    """A real gunicorn with the given gateway.yaml, and the ledger process next to it.

    `services` is a third process's view of the same Redis and database: for keys and figures.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        *,
        redis_url: str,
        prices: str = "",
        workers: int = 2,
        ledger: bool = True,
        env: dict[str, str] | None = None,
        prefix: Callable[[Path], list[str]] = lambda _: [],
        tree: Path = ROOT,
    ) -> None:
        """`prefix`: of DATA_DIR, what to put before the gateway's command. `tree`: the source tree that is run."""
        self.tree = tree
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "gateway.yaml").write_text(config)
        if prices:
            (directory / "prices.yaml").write_text(prices)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            "PATH": os.environ["PATH"],
            "DATA_DIR": str(directory / "data"),
            "REDIS_URL": redis_url,
            "GATEWAY_CONFIG": str(directory / "gateway.yaml"),
            "DEV_API_KEY": DEV_KEY,
            "ADMIN_KEY": ADMIN_KEY,
            "PORT": str(self.port),
            "WEB_CONCURRENCY": str(workers),
            "LOG_LEVEL": "info",
            "PYTHONPATH": str(tree),
            # Another tree's lines would be unknown to the report.
            **{k: v for k, v in os.environ.items() if k.startswith("COV") and tree == ROOT},
            **(env or {}),
        }
        self._log = directory / "gateway.log"
        self._workers = workers
        self._with_ledger = ledger
        self._prefix = prefix(Path(self.env["DATA_DIR"]))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.services: Services = build_services(load_settings(self.env))

    def __enter__(self) -> Gateway:
        self.services.database.migrate()
        self.services.installation.adopt()  # the Redis may have been another gateway's until now
        with self._log.open("ab") as log:
            command = ["gunicorn", "-c", "gunicorn.conf.py", "app:create_app()"]
            self._processes = [self._start(command, log, self._prefix)]
        if self._with_ledger:
            self.start_ledger()
        wait_for(self.ready, message=f"the gateway did not become ready:\n{self.log()}")
        # The first worker may serve before the next is there.
        wait_for(lambda: len(self.worker_pids()) == self._workers, message="a worker did not start")
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.services.close()

    def start_ledger(self) -> None:
        with self._log.open("ab") as log:
            self._processes.append(self._start(["flask", "--app", "app", "ledger", "run"], log))

    def ready(self) -> bool:
        assert self._processes[0].poll() is None, self.log()
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def log(self) -> str:
        text = self._log.read_text(errors="replace")[-200_000:] if self._log.exists() else ""
        return text[: text.rfind("\n") + 1]  # the last line may still be on its way

    @property
    def master_pid(self) -> int:
        return self._processes[0].pid

    @property
    def ledger_pid(self) -> int:
        return self._processes[-1].pid

    def worker_pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.master_pid).children()]

    def reload(self) -> None:
        self._processes[0].send_signal(signal.SIGHUP)

    def create_key(self, name: str = "test", **options: Any) -> str:
        key, _ = self.services.keys.create(name, **options)
        return key

    def drained(self, timeout_s: float = 30.0) -> None:
        """Waits until no call is open and every row is in the database."""
        redis = self.services.redis

        def unsettled() -> dict[str, Any]:
            workers = redis.execute("KEYS", "penstock:reservations:*")
            calls = [call for worker in workers for call in redis.execute("ZRANGE", worker, 0, -1)]
            depth = self.services.outbox.depth()
            return {"calls": calls, "rows": depth} if calls or depth else {}

        deadline = time.monotonic() + timeout_s
        while left := unsettled():
            assert time.monotonic() < deadline, f"unsettled: {left}\n{self.log()}"
            time.sleep(0.02)

    def rows(self, where: str = "1=1") -> list[dict[str, Any]]:
        """The ledger's rows."""
        path = self.env["DATA_DIR"] + "/ledger.db"
        with sqlite3.connect(path, timeout=5) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(f"select * from usage where {where}")]
        connection.close()
        return rows

    def _start(self, command: list[str], log: Any, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        command = [*prefix, str(Path(sys.executable).parent / command[0]), *command[1:]]
        return subprocess.Popen(command, cwd=self.tree, env=self.env, stdout=log, stderr=log)


def flushed(redis_url: str) -> None:
    client = Redis(redis_url)
    client.execute("FLUSHALL")
    client.close()
