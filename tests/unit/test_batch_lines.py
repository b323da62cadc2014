"""A batch's lines: what can be run, what is wrong with what cannot, and what is written of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain import batch
from app.domain.batch import BatchLine, BatchRequest, ExpiresAfter, InvalidBatchLine
from app.errors import InvalidRequest

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
WANTED = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}


def line(endpoint: str = CHAT, **fields: Any) -> BatchLine | InvalidBatchLine:
    whole = {"custom_id": "a", "method": "POST", "url": CHAT, "body": BODY, **fields}
    return batch.parse_line(7, json.dumps(whole).encode(), endpoint)


def test_a_line_that_can_be_run_is_a_request() -> None:
    found = line()
    assert isinstance(found, BatchLine)
    assert (found.number, found.custom_id, found.request.model) == (7, "a", "m")
    found = line(EMBED, url=EMBED, body={"model": "e", "input": "x"})
    assert isinstance(found, BatchLine)
    assert (found.request.model, json.loads(found.request.raw)) == ("e", {"model": "e", "input": "x"})


@pytest.mark.parametrize(
    ("fields", "code", "param", "refused"),
    [
        ({"method": "GET"}, "invalid_method", "method", False),
        ({"url": EMBED}, "url_mismatch", "url", False),
        ({"custom_id": ""}, "invalid_line", None, False),
        ({"custom_id": "x" * 513}, "invalid_line", None, False),
        ({"body": {**BODY, "stream": True}}, "invalid_request", "stream", True),
        ({"body": {**BODY, "n": 0}}, "invalid_request", "n", True),
        ({"body": {"model": "m"}}, "invalid_request", "messages", True),
    ],
)
def test_a_line_that_cannot_says_why(fields: dict[str, Any], code: str, param: str | None, refused: bool) -> None:
    found = line(**fields)
    assert isinstance(found, InvalidBatchLine)
    assert (found.number, found.code, found.param, found.error is not None) == (7, code, param, refused)
    assert found.custom_id == fields.get("custom_id", "a")[:512]


def test_a_line_that_is_no_object_is_told_from_one_that_is_no_json() -> None:
    for raw, code, custom_id in (
        (b"{", "invalid_json_line", None),
        (b"\xff", "invalid_json_line", None),
        (b'{"a":' * 100_000, "invalid_json_line", None),
        (b"[]", "invalid_line", None),
        (b'{"custom_id": 5}', "invalid_line", None),
        (b'{"custom_id": "b"}', "invalid_line", "b"),
    ):
        found = batch.parse_line(1, raw, CHAT)
        assert isinstance(found, InvalidBatchLine)
        assert (found.code, found.custom_id) == (code, custom_id)
    assert isinstance(line(custom_id="x" * 512), BatchLine)
    assert not isinstance(line(body={**BODY, "stream": False}), InvalidBatchLine)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/completions"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"x" * 65: ""}}, "metadata"),
        ({"metadata": {"x": "y" * 513}}, "metadata[...]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
    ],
)
def test_a_batch_that_openai_would_refuse_is_refused_by_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        BatchRequest.parse(json.dumps({**WANTED, **change}).encode())
    assert caught.value.param == param


@pytest.mark.parametrize("endpoint", [CHAT, EMBED])
@pytest.mark.parametrize("seconds", [3600, 2_592_000])
def test_a_batch_may_use_its_bounds_up_to_the_last(endpoint: str, seconds: int) -> None:
    metadata = {f"{i}".rjust(64, "x"): "y" * 512 for i in range(16)}
    expiry = {"anchor": "created_at", "seconds": seconds}
    asked = {**WANTED, "endpoint": endpoint, "metadata": metadata, "output_expires_after": expiry}
    found = BatchRequest.parse(json.dumps(asked).encode())
    assert (found.metadata, found.output_expires_after) == (metadata, ExpiresAfter("created_at", seconds))


def test_a_forms_expiry_is_text_and_still_bounded() -> None:
    assert batch.parse_expires_after({"anchor": "created_at", "seconds": "3600"}).seconds == 3600
    for wrong in ({"anchor": "created_at", "seconds": "1"}, {"anchor": "x", "seconds": "3600"}, {}):
        with pytest.raises(InvalidRequest) as caught:
            batch.parse_expires_after(wrong)
        assert caught.value.param == "expires_after"


def test_an_output_line_is_one_line_with_the_answers_own_bytes() -> None:
    written = batch.response_line("e1", "a", "req_1", 200, b'{\n "id": "x",\n "n": 1.50\n}')
    assert b"\n" not in written
    assert b'"n":1.50' in written
    assert json.loads(written) == {
        "id": "e1",
        "custom_id": "a",
        "error": None,
        "response": {"status_code": 200, "request_id": "req_1", "body": {"id": "x", "n": 1.5}},
    }


def test_an_error_line_says_what_the_endpoint_would_have_said() -> None:
    exc = InvalidRequest("No.", param="n")
    found = json.loads(batch.error_line("e1", None, "req_1", exc))
    assert found["response"]["status_code"] == 400
    error = {"message": "No.", "type": "invalid_request_error", "param": "n", "code": "INVALID_REQUEST"}
    assert found["response"]["body"] == {"error": error}
    assert (found["id"], found["custom_id"], found["response"]["request_id"]) == ("e1", None, "req_1")


def test_a_line_that_was_never_run_says_which_and_why() -> None:
    found = json.loads(batch.unprocessed_line("e1", "a", 7, "batch_expired", "Too late.", "n"))
    assert found == {
        "id": "e1",
        "custom_id": "a",
        "response": None,
        "error": {"code": "batch_expired", "message": "Too late.", "param": "n", "line": 7},
    }


def test_which_batches_are_unfinished_and_how_long_one_may_take() -> None:
    """The words of OpenAI's API, as clients poll for them."""
    assert batch.UNFINISHED_STATUSES == ("validating", "in_progress", "finalizing", "cancelling")
    assert batch.COMPLETION_WINDOW_S == 24 * 3600
