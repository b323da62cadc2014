"""Another process holds SQLite's write lock: who writes waits, and nobody else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from tests.support.client import Answer, ask, chat, post
from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.upstream import Upstream

CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
models: {{usage-10-5: {{targets: [{{provider: up}}]}}}}
"""
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n--x--\r\n'
)


@contextmanager
def write_lock(server: Gateway) -> Iterator[None]:
    with closing(sqlite3.connect(server.env["DATA_DIR"] + "/ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def upload(server: Gateway) -> Answer:
    return post(
        server.port, FORM, DEV_KEY, path="/v1/files", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )


@pytest.mark.parametrize("writers", [1, 12])
def test_a_foreign_write_lock_makes_writers_wait_and_nobody_else(
    gateway: Callable[..., Gateway], upstream: Upstream, writers: int
) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1, ledger=False)
    assert upload(server).status == 200
    with ThreadPoolExecutor(writers) as pool:
        with write_lock(server):
            uploads = [pool.submit(upload, server) for _ in range(writers)]
            until = time.monotonic() + 3  # who writes waits for 5 s
            for _ in range(6):
                assert ask(server.port, "/health", DEV_KEY).status == 200
                assert post(server.port, chat("usage-10-5"), DEV_KEY).status == 200
                files = ask(server.port, "/v1/files", DEV_KEY)
                assert (files.status, len(files.json["data"])) == (200, 1), "readers do not wait for a writer"
                if time.monotonic() > until:
                    break
            assert not any(upload.done() for upload in uploads), "they were to wait all that time"
        assert [upload.result().status for upload in uploads] == [200] * writers
    assert len(ask(server.port, "/v1/files", DEV_KEY).json["data"]) == 1 + writers


def test_a_lock_that_stays_is_a_503_for_who_writes(gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    server = gateway(CONFIG.format(url=upstream.url), workers=1, ledger=False)
    with write_lock(server), ThreadPoolExecutor(3) as pool:
        uploads = [pool.submit(upload, server) for _ in range(3)]
        answers = [upload.result() for upload in uploads]
        assert {(answer.status, answer.code, answer.headers["retry-after"]) for answer in answers} == {
            (503, "NOT_READY", "5")
        }
        assert ask(server.port, "/v1/files", DEV_KEY).json["data"] == []
    wait_for(lambda: upload(server).status == 200, message="it does not recover")
    assert "Traceback" not in server.log(), "a busy database is no bug, and its threads print none"
