"""The official SDK's batch calls, unmodified, against a real gunicorn and a real worker, which is killed once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.support.servers import DEV_KEY, Gateway, wait_for
from tests.support.workers import QueueWorker

LINES = 500
CONFIG = """
providers:
  demo: {{kind: demo, script: {{delay_s: {delay_s}, prompt_tokens: 7, completion_tokens: 5}}}}
models:
  demo: {{targets: [{{provider: demo}}]}}
queue: {{lease_s: 2}}
plans: {{default: {{budget_usd_per_month: 1000}}}}
"""
PRICES = 'demo: {"*": {prompt: 1, completion: 2}}'
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def server(gateway: Callable[..., Gateway]) -> Callable[[float], Gateway]:
    return lambda delay_s: gateway(CONFIG.format(delay_s=delay_s), prices=PRICES, workers=1)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    with path.open("w") as file:
        for i in range(LINES):
            body = {"model": "demo", "messages": [{"role": "user", "content": f"Say {i}"}], "max_tokens": 20}
            line = {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


@pytest.fixture
def sdk(server: Callable[[float], Gateway]) -> Iterator[Callable[[Gateway], OpenAI]]:
    opened: list[OpenAI] = []

    def connect(gateway: Gateway) -> OpenAI:
        opened.append(OpenAI(base_url=f"{gateway.url}/v1", api_key=DEV_KEY, max_retries=0))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


def begin(client: OpenAI, lines: Path) -> Batch:
    with lines.open("rb") as content:
        file = client.files.create(file=content, purpose="batch")
    assert (file.filename, file.bytes, file.status) == (lines.name, lines.stat().st_size, "processed")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"job": "nightly"}
    )


def finished_batch(client: OpenAI, batch: Batch, timeout_s: float = 45) -> Batch:
    ended: Batch = wait_for(
        lambda: found if (found := client.batches.retrieve(batch.id)).status in ENDED else None, timeout_s=timeout_s
    )
    return ended


def rows_of(client: OpenAI, file_id: str | None) -> list[dict[str, object]]:
    return [] if file_id is None else [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def each_line_once(client: OpenAI, server: Gateway, batch: Batch, *, interrupted: int = 0) -> None:
    """In the output, and in the ledger. At most so many were `interrupted` by their worker's death: that attempt is
    charged besides."""
    output = rows_of(client, batch.output_file_id)
    assert [row["custom_id"] for row in output] == [f"line-{i}" for i in range(LINES)]
    server.drained()
    rows = server.rows()
    assert sorted(row["request_id"] for row in rows) == sorted(row["response"]["request_id"] for row in output)  # type: ignore[index]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["cost_nanousd"] for row in rows if not row["estimated"]} == {17_000}
    estimated = [row["cost_nanousd"] for row in rows if row["estimated"]]
    assert len(estimated) <= interrupted
    assert all(cost > 17_000 for cost in estimated)
    spent = server.services.redis.execute("KEYS", "penstock:limit:dev:budget_usd_per_month:*")
    assert int(server.services.redis.execute("GET", spent[0])) == sum(row["cost_nanousd"] for row in rows)


def test_a_batch_of_500_lines(
    server: Callable[[float], Gateway], sdk: Callable[[Gateway], OpenAI], lines: Path
) -> None:
    running = server(0)
    client = sdk(running)
    with QueueWorker(running, threads=50):
        began = time.monotonic()
        batch = begin(client, lines)
        assert (batch.status, batch.metadata) == ("validating", {"job": "nightly"})
        done = finished_batch(client, batch)
        print(f"{LINES} lines in {time.monotonic() - began:.1f} s")
    assert done.status == "completed"
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": LINES, "completed": LINES, "failed": 0}
    assert (done.errors, done.error_file_id) == (None, None)
    each_line_once(client, running, done)
    assert [found.id for found in client.batches.list()] == [batch.id]
    assert {file.id for file in client.files.list()} == {batch.input_file_id, done.output_file_id}
    assert client.files.retrieve(batch.input_file_id).purpose == "batch"
    assert client.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.input_file_id)


def test_a_running_batch_is_cancelled(
    server: Callable[[float], Gateway], sdk: Callable[[Gateway], OpenAI], lines: Path
) -> None:
    running = server(0.2)
    client = sdk(running)
    with QueueWorker(running, threads=20):
        batch = begin(client, lines)
        wait_for(lambda: (counts := client.batches.retrieve(batch.id).request_counts) and counts.completed)
        assert client.batches.cancel(batch.id).status == "cancelling"
        began = time.monotonic()
        done = finished_batch(client, batch)
        assert time.monotonic() - began < 5
    assert done.status == "cancelled"
    assert done.request_counts is not None
    output, errors = rows_of(client, done.output_file_id), rows_of(client, done.error_file_id)
    assert 0 < len(output) == done.request_counts.completed < LINES
    assert len(output) + len(errors) == LINES
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}  # type: ignore[index]
    running.drained()
    rows = running.rows()
    assert sum(row["status"] == "ok" for row in rows) == len(output)
    assert len({row["call_id"] for row in rows}) == len(rows) < LINES


def test_a_worker_killed_in_the_middle_loses_no_line_and_repeats_none(
    server: Callable[[float], Gateway], sdk: Callable[[Gateway], OpenAI], lines: Path
) -> None:
    running = server(0.05)
    client = sdk(running)
    batch = begin(client, lines)
    results = Path(running.env["DATA_DIR"]) / "batches" / f"{batch.id}.results"
    for kept in (60, 200):
        with QueueWorker(running, threads=50) as worker:
            wait_for(lambda kept=kept: results.exists() and results.read_bytes().count(b"\n") >= kept)
            worker.kill()
    with QueueWorker(running, threads=50) as worker:
        done = finished_batch(client, batch)
    assert (done.status, done.error_file_id) == ("completed", None)
    assert worker.log().count("batch_taken_over") == 2
    each_line_once(client, running, done, interrupted=2 * 50)
