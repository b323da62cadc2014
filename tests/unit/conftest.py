"""Real parts for the tests of the stores: a client of the session's Redis, a migrated SQLite file for each test."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.redis.client import Redis
from app.store.sql.database import Database
from tests.support.calls import PipelineHarness


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    client = Redis(redis_url)
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


@pytest.fixture
def harness(redis: Redis, tmp_path: Path) -> Iterator[PipelineHarness]:
    opened = PipelineHarness(redis, tmp_path)
    yield opened
    opened.close()
