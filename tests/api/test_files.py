"""Files over HTTP, on a real disk; and who may see them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable

import pytest

from tests.api.batching import BatchWorker, batch, call, create, created, jsonl, line, upload, uploaded
from tests.api.batching import build_client as build_client
from tests.api.conftest import AppClient


def test_a_file_is_uploaded_shown_listed_read_and_deleted(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    data = jsonl([line(content="x" * i) for i in range(1500)])
    file = upload(client, data).json
    assert (file["object"], file["bytes"], file["purpose"], file["filename"], file["status"]) == (
        "file",
        len(data),
        "batch",
        "in.jsonl",
        "processed",
    )
    assert file["expires_at"] - file["created_at"] == 30 * 86_400
    assert call(client, "GET", f"/v1/files/{file['id']}").json == file
    second = uploaded(client, data)
    listed = call(client, "GET", "/v1/files").json
    assert [row["id"] for row in listed["data"]] == [second, file["id"]]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, second, file["id"])
    older = call(client, "GET", f"/v1/files?limit=1&after={second}").json
    assert ([row["id"] for row in older["data"]], older["has_more"]) == ([file["id"]], False)
    assert call(client, "GET", "/v1/files?purpose=batch_output").json["data"] == []
    read = call(client, "GET", f"/api/v1/files/{file['id']}/content")
    assert (read.data, read.mimetype) == (data, "application/octet-stream")
    gone = call(client, "DELETE", f"/v1/files/{file['id']}")
    assert gone.json == {"id": file["id"], "object": "file", "deleted": True}
    assert call(client, "GET", f"/v1/files/{file['id']}").status_code == 404
    assert len(list((client.services.settings.data_dir / "files").iterdir())) == 1


def test_only_batch_files_are_taken_and_what_is_refused_leaves_nothing(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {max_file_bytes: 2000}\n")
    cases = {
        "purpose": upload(client, b"{}", purpose="fine-tune"),
        "file": call(
            client,
            "POST",
            "/v1/files",
            data={"purpose": "batch", "other": (io.BytesIO(b"x"), "x")},
            content_type="multipart/form-data",
        ),
        "expires_after": upload(
            client, b"{}", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}
        ),
    }
    assert {param: (a.status_code, a.json["error"]["param"]) for param, a in cases.items()} == {
        param: (400, param) for param in cases
    }
    too_long = upload(client, b"x" * 2001)
    assert (too_long.status_code, too_long.json["code"]) == (413, "REQUEST_TOO_LARGE")
    much_too_long = upload(client, b"x" * 200_000)
    assert (much_too_long.status_code, much_too_long.json["code"]) == (413, "REQUEST_TOO_LARGE")
    broken = call(client, "POST", "/v1/files", data=b"--b\r\nnonsense", content_type="multipart/form-data; boundary=b")
    assert (broken.status_code, broken.json["code"]) == (400, "INVALID_REQUEST")
    assert call(client, "POST", "/v1/files", json={}).status_code == 415
    assert list((client.services.settings.data_dir / "files").iterdir()) == []
    assert call(client, "GET", "/v1/files").json["data"] == []


def test_a_key_can_only_fill_its_own_share_of_the_disk(build_client: Callable[..., AppClient]) -> None:
    client = build_client(more="batch: {max_files_per_key: 3, max_bytes_per_key: 2000}\n")
    first = uploaded(client, b"x" * 1500)
    refused = upload(client, b"x" * 600)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "file")
    assert "Delete some" in refused.json["error"]["message"]
    uploaded(client, b"x" * 200)
    uploaded(client, b"x")
    assert upload(client, b"x").status_code == 400
    call(client, "DELETE", f"/v1/files/{first}")
    uploaded(client, b"x")
    assert len(list((client.services.settings.data_dir / "files").iterdir())) == 3


def test_a_key_uploads_only_so_many_files_at_once(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    begun = [client.services.files.begin_upload("dev") for _ in range(4)]
    refused = upload(client, b"{}")
    assert (refused.status_code, refused.json["code"]) == (503, "NOT_READY")
    begun[0].discard()
    assert upload(client, b"{}").status_code == 200


@pytest.mark.parametrize("path", ["/v1/files/{}", "/v1/files/{}/content", "/v1/batches/{}"])
def test_bug_07_anothers_files_and_batches_do_not_exist(build_client: Callable[..., AppClient], path: str) -> None:
    client = build_client()
    other, _ = client.services.keys.create("other")
    batch_id = created(client, [line()])
    mine = batch_id if "batches" in path else batch(client, batch_id)["input_file_id"]
    for wanted in (mine, mine[:-1] + "x", "..%2F..%2Fledger.db", "%00"):
        answer = call(client, "GET", path.format(wanted), key=other)
        assert (answer.status_code, answer.json["code"]) == (404, "NOT_FOUND")
    assert call(client, "GET", path.format(mine)).status_code == 200
    assert call(client, "DELETE", path.format(mine).replace("/content", ""), key=other).status_code in (404, 405)
    if "batches" in path:
        assert call(client, "POST", f"/v1/batches/{mine}/cancel", key=other).status_code == 404
        assert call(client, "GET", "/v1/batches", key=other).json["data"] == []
    else:
        stolen = create(client, mine, key=other)
        assert (stolen.status_code, stolen.json["error"]["param"]) == (404, "input_file_id")
        assert call(client, "GET", "/v1/files", key=other).json["data"] == []


def test_a_file_that_a_batch_reads_is_neither_deleted_nor_swept(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    batch_id = created(client, [line()])
    file_id = batch(client, batch_id)["input_file_id"]
    answer = call(client, "DELETE", f"/v1/files/{file_id}")
    assert (answer.status_code, batch_id in answer.json["error"]["message"]) == (409, True)
    with client.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE files SET expires_at = 1")
    worker = BatchWorker(client)
    worker.supervisor.remove_expired()
    worker.work()
    assert batch(client, batch_id)["status"] == "completed"
    worker.later_s = 3601
    worker.supervisor.remove_expired()
    [left] = (client.services.settings.data_dir / "files").iterdir()
    assert left.name == batch(client, batch_id)["output_file_id"]


def test_the_sweep_removes_what_nobody_has_a_row_of(build_client: Callable[..., AppClient]) -> None:
    client = build_client()
    kept = uploaded(client, b"{}")
    directory = client.services.settings.data_dir / "files"
    long_ago = 2_600_000
    for name, age_s in (
        ("upload.dev.1", 90_000),
        ("file-orphan", long_ago),
        ("file-younger", 90_000),
        ("upload.dev.2", 10),
        (kept, long_ago),
    ):
        (directory / name).touch()
        os.utime(directory / name, (time.time() - age_s,) * 2)
    (client.services.settings.data_dir / "batches").mkdir()
    (client.services.settings.data_dir / "batches" / "batch_ended.results").touch()
    BatchWorker(client).supervisor.remove_expired()
    assert {path.name for path in directory.iterdir()} == {kept, "upload.dev.2", "file-younger"}
    assert list((client.services.settings.data_dir / "batches").iterdir()) == []
