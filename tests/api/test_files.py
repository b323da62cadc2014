"""Files over HTTP, on a real disk; and who may see them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable

import pytest

from tests.api.batching import Feeding, batch, call, create, created, jsonl, line, upload, uploaded
from tests.api.batching import made as made
from tests.api.conftest import Edge


def test_a_file_is_uploaded_shown_listed_read_and_deleted(made: Callable[..., Edge]) -> None:
    edge = made()
    data = jsonl([line(content="x" * i) for i in range(1500)])
    file = upload(edge, data).json
    assert (file["object"], file["bytes"], file["purpose"], file["filename"], file["status"]) == (
        "file",
        len(data),
        "batch",
        "in.jsonl",
        "processed",
    )
    assert file["expires_at"] - file["created_at"] == 30 * 86_400
    assert call(edge, "GET", f"/v1/files/{file['id']}").json == file
    second = uploaded(edge, data)
    listed = call(edge, "GET", "/v1/files").json
    assert [row["id"] for row in listed["data"]] == [second, file["id"]]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, second, file["id"])
    older = call(edge, "GET", f"/v1/files?limit=1&after={second}").json
    assert ([row["id"] for row in older["data"]], older["has_more"]) == ([file["id"]], False)
    assert call(edge, "GET", "/v1/files?purpose=batch_output").json["data"] == []
    read = call(edge, "GET", f"/api/v1/files/{file['id']}/content")
    assert (read.data, read.mimetype) == (data, "application/octet-stream")
    gone = call(edge, "DELETE", f"/v1/files/{file['id']}")
    assert gone.json == {"id": file["id"], "object": "file", "deleted": True}
    assert call(edge, "GET", f"/v1/files/{file['id']}").status_code == 404
    assert len(list((edge.services.settings.data_dir / "files").iterdir())) == 1


def test_only_batch_files_are_taken_and_what_is_refused_leaves_nothing(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {max_file_bytes: 2000}\n")
    cases = {
        "purpose": upload(edge, b"{}", purpose="fine-tune"),
        "file": call(
            edge,
            "POST",
            "/v1/files",
            data={"purpose": "batch", "other": (io.BytesIO(b"x"), "x")},
            content_type="multipart/form-data",
        ),
        "expires_after": upload(edge, b"{}", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}),
    }
    assert {param: (a.status_code, a.json["error"]["param"]) for param, a in cases.items()} == {
        param: (400, param) for param in cases
    }
    too_long = upload(edge, b"x" * 2001)
    assert (too_long.status_code, too_long.json["code"]) == (413, "REQUEST_TOO_LARGE")
    much_too_long = upload(edge, b"x" * 200_000)
    assert (much_too_long.status_code, much_too_long.json["code"]) == (413, "REQUEST_TOO_LARGE")
    broken = call(edge, "POST", "/v1/files", data=b"--b\r\nnonsense", content_type="multipart/form-data; boundary=b")
    assert (broken.status_code, broken.json["code"]) == (400, "INVALID_REQUEST")
    assert call(edge, "POST", "/v1/files", json={}).status_code == 415
    assert list((edge.services.settings.data_dir / "files").iterdir()) == []
    assert call(edge, "GET", "/v1/files").json["data"] == []


def test_a_key_can_only_fill_its_own_share_of_the_disk(made: Callable[..., Edge]) -> None:
    edge = made(more="batch: {max_files_per_key: 3, max_bytes_per_key: 2000}\n")
    first = uploaded(edge, b"x" * 1500)
    refused = upload(edge, b"x" * 600)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "file")
    assert "Delete some" in refused.json["error"]["message"]
    uploaded(edge, b"x" * 200)
    uploaded(edge, b"x")
    assert upload(edge, b"x").status_code == 400
    call(edge, "DELETE", f"/v1/files/{first}")
    uploaded(edge, b"x")
    assert len(list((edge.services.settings.data_dir / "files").iterdir())) == 3


def test_a_key_uploads_only_so_many_files_at_once(made: Callable[..., Edge]) -> None:
    edge = made()
    begun = [edge.services.files.begin_upload("dev") for _ in range(4)]
    refused = upload(edge, b"{}")
    assert (refused.status_code, refused.json["code"]) == (503, "NOT_READY")
    begun[0].discard()
    assert upload(edge, b"{}").status_code == 200


@pytest.mark.parametrize("path", ["/v1/files/{}", "/v1/files/{}/content", "/v1/batches/{}"])
def test_bug_07_anothers_files_and_batches_do_not_exist(made: Callable[..., Edge], path: str) -> None:
    edge = made()
    other, _ = edge.services.keys.create("other")
    batch_id = created(edge, [line()])
    mine = batch_id if "batches" in path else batch(edge, batch_id)["input_file_id"]
    for wanted in (mine, mine[:-1] + "x", "..%2F..%2Fledger.db", "%00"):
        answer = call(edge, "GET", path.format(wanted), key=other)
        assert (answer.status_code, answer.json["code"]) == (404, "NOT_FOUND")
    assert call(edge, "GET", path.format(mine)).status_code == 200
    assert call(edge, "DELETE", path.format(mine).replace("/content", ""), key=other).status_code in (404, 405)
    if "batches" in path:
        assert call(edge, "POST", f"/v1/batches/{mine}/cancel", key=other).status_code == 404
        assert call(edge, "GET", "/v1/batches", key=other).json["data"] == []
    else:
        stolen = create(edge, mine, key=other)
        assert (stolen.status_code, stolen.json["error"]["param"]) == (404, "input_file_id")
        assert call(edge, "GET", "/v1/files", key=other).json["data"] == []


def test_a_file_that_a_batch_reads_is_neither_deleted_nor_swept(made: Callable[..., Edge]) -> None:
    edge = made()
    batch_id = created(edge, [line()])
    file_id = batch(edge, batch_id)["input_file_id"]
    answer = call(edge, "DELETE", f"/v1/files/{file_id}")
    assert (answer.status_code, batch_id in answer.json["error"]["message"]) == (409, True)
    with edge.services.database.write() as connection:
        connection.exec_driver_sql("UPDATE files SET expires_at = 1")
    worker = Feeding(edge)
    worker.feeder.sweep()
    worker.work()
    assert batch(edge, batch_id)["status"] == "completed"
    worker.later_s = 3601
    worker.feeder.sweep()
    [left] = (edge.services.settings.data_dir / "files").iterdir()
    assert left.name == batch(edge, batch_id)["output_file_id"]


def test_the_sweep_removes_what_nobody_has_a_row_of(made: Callable[..., Edge]) -> None:
    edge = made()
    kept = uploaded(edge, b"{}")
    directory = edge.services.settings.data_dir / "files"
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
    (edge.services.settings.data_dir / "batches").mkdir()
    (edge.services.settings.data_dir / "batches" / "batch_ended.results").touch()
    Feeding(edge).feeder.sweep()
    assert {path.name for path in directory.iterdir()} == {kept, "upload.dev.2", "file-younger"}
    assert list((edge.services.settings.data_dir / "batches").iterdir()) == []
