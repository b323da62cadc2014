"""Steps of tests of batches: upload, create, poll, and be a worker process."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.jobs.batch.runner import BatchRunner
from app.jobs.batch.services import BatchServices
from app.jobs.batch.supervisor import BatchSupervisor
from app.store.files import Files
from tests.api.conftest import AppClient
from tests.api.test_jobs import ANSWERED, DEMO, JobWorker, open_reservations
from tests.support.response import AppResponse

_NO_LINES: list[dict[str, Any]] = []


class BatchWorker(JobWorker):
    """A worker process: its job runner, and its batch supervisor with a clock to step."""

    def __init__(self, client: AppClient, *, name: str = "w1", disk: Path | None = None) -> None:
        """`disk`: where this process has its files and results, in place of DATA_DIR."""
        super().__init__(client, name=name)
        found = client.services
        self.later_s = 0.0
        files, config = found.files, found.settings.config
        if disk is not None:
            files = Files(database=found.database, directory=disk / "files", config=config.batch)
        services = BatchServices(
            queue=found.queue,
            callers=found.callers,
            batches=found.batches,
            files=files,
            config=config,
            clock=lambda: time.time() + self.later_s,
            pause=lambda _: None,
        )
        self.supervisor = BatchSupervisor(services, results_dir=(disk or found.settings.data_dir) / "batches")
        self.runners: list[BatchRunner] = []

    def step(self, times: int = 1) -> None:
        """One step of each batch, or several."""
        for _ in range(times):
            self.runners += self.supervisor.claim()
            for runner in list(self.runners):
                if runner.step(self.supervisor.queue_share(runner.key_id)).done:
                    self.supervisor.release(runner)
                    self.runners.remove(runner)

    def work(self, rounds: int = 10) -> None:
        """Steps and runs until nothing is left."""
        for _ in range(rounds):
            self.step(2)
            if not self.runners:
                return
            self.run()
        raise AssertionError("the batches did not end")

    def die(self) -> None:
        """As with kill -9: the kernel closes the files, nothing else happens."""
        for runner in self.runners:
            runner.release()


@pytest.fixture
def build_client(client_with: Callable[[str], AppClient]) -> Callable[..., AppClient]:
    """The application with one demo model `m`."""

    def build(script: str = ANSWERED, more: str = "") -> AppClient:
        return client_with(DEMO.format(script=script) + more)

    return build


def line(number: int | str = 1, *, custom_id: str | None = None, content: str = "Hi", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    return {
        "custom_id": custom_id or f"n{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
        **more,
    }


def with_body(number: int = 1, **body: Any) -> dict[str, Any]:
    found = line(number)
    found["body"] |= body
    return found


def jsonl(lines: list[Any]) -> bytes:
    return b"".join((text if isinstance(text, bytes) else json.dumps(text).encode()) + b"\n" for text in lines)


def call(client: AppClient, method: str, path: str, *, key: str | None = None, **sent: Any) -> AppResponse:
    answer: AppResponse = client._client.open(
        path, method=method, headers={"Authorization": f"Bearer {key or client.key}"}, **sent
    )
    return answer


def upload(
    client: AppClient, content: bytes, *, purpose: str = "batch", key: str | None = None, **more: Any
) -> AppResponse:
    form = {"purpose": purpose, "file": (io.BytesIO(content), "in.jsonl"), **more}
    return call(client, "POST", "/v1/files", key=key, data=form, content_type="multipart/form-data")


def uploaded(client: AppClient, content: bytes, key: str | None = None) -> str:
    answer = upload(client, content, key=key)
    assert answer.status_code == 200, answer.text
    return str(answer.json["id"])


def create(client: AppClient, file_id: str, *, key: str | None = None, **more: Any) -> AppResponse:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return call(client, "POST", "/v1/batches", key=key, json=body)


def created(client: AppClient, lines: list[Any], *, key: str | None = None, **more: Any) -> str:
    answer = create(client, uploaded(client, jsonl(lines), key), key=key, **more)
    assert (answer.status_code, answer.json["status"]) == (200, "validating"), answer.text
    return str(answer.json["id"])


def batch(client: AppClient, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = call(client, "GET", f"/v1/batches/{batch_id}").json
    return found


def content(client: AppClient, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return _NO_LINES
    answer = call(client, "GET", f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [json.loads(text) for text in answer.text.splitlines()]


def both(client: AppClient, batch_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of the output and of the error file."""
    found = batch(client, batch_id)
    return content(client, found["output_file_id"]), content(client, found["error_file_id"])


def failures(errors: list[dict[str, Any]]) -> dict[Any, Any]:
    """custom_id → the code, wherever it is."""
    return {
        row["custom_id"]: (row["error"] or {}).get("code") or row["response"]["body"]["error"]["code"] for row in errors
    }


def results_file(client: AppClient) -> Path:
    [path] = (client.services.settings.data_dir / "batches").glob("*.results")
    return path


def idle(client: AppClient) -> None:
    """Nothing is left of batches in Redis, nor on disk beside the files."""
    assert client.keys("penstock:job:*") == client.keys("penstock:idempotency:*") == open_reservations(client) == []
    assert list((client.services.settings.data_dir / "batches").iterdir()) == []
    assert [path.name for path in (client.services.settings.data_dir / "files").glob("upload.*")] == []
