"""`POST /responses` as a caller sees it, and the responses that are kept for later requests."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from app.api.responses_as_chat import as_chat_request
from app.errors import StoreUnavailable
from app.store.responses import Responses, StoredResponse
from tests.api.conftest import KEY, AppClient
from tests.support.response import AppResponse

CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0}}
  echo: {kind: demo, script: {chunk_delay_s: 0, reply: "Pong."}}
  broken: {kind: demo, script: {chunk_delay_s: 0, cut_after_chunks: 3}}
models:
  m: {targets: [{provider: demo}]}
  echo: {targets: [{provider: echo}]}
  broken: {targets: [{provider: broken}]}
retry: {max_attempts: 1}
server: {max_body_bytes: 100000}
responses: {ttl_s: 600, max_response_bytes: 20000, max_bytes_per_key: 60000}
"""


@pytest.fixture
def app(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def respond(app: AppClient, given: Any = "ping", **more: Any) -> AppResponse:
    body = {"model": "echo", "input": given, **more}
    return app.post(json.dumps(body), path="/v1/responses")


def events(response: AppResponse) -> list[dict[str, Any]]:
    """The stream's events, each named by its type and numbered from 0."""
    found = []
    for i, block in enumerate(response.text.removesuffix("\n\n").split("\n\n")):
        name, _, data = block.partition("\ndata: ")
        found.append(json.loads(data))
        assert name == f"event: {found[i]['type']}"
        assert found[i]["sequence_number"] == i
    return found


def show(app: AppClient, path: str, method: str = "GET", key: str = KEY) -> AppResponse:
    return app.send(method, f"/v1/responses/{path}", headers={"Authorization": f"Bearer {key}"})


def test_an_answer_is_a_response_object(app: AppClient) -> None:
    found = respond(app, instructions="Be brief.")
    assert found.status_code == 200, found.text
    assert found.json["object"] == "response"
    assert found.json["output"][0]["content"][0]["text"] == "Pong."
    assert found.json["instructions"] == "Be brief."
    assert app.rows()[-1]["endpoint"] == "responses"
    assert app.rows()[-1]["prompt_tokens"] == found.json["usage"]["input_tokens"]


def test_a_stream_ends_with_the_response(app: AppClient) -> None:
    found = respond(app, stream=True)
    assert found.headers["Content-Type"].startswith("text/event-stream")
    stream = events(found)
    assert [event["type"] for event in stream[:2]] == ["response.created", "response.in_progress"]
    assert stream[-1]["type"] == "response.completed"
    assert "".join(e["delta"] for e in stream if e["type"] == "response.output_text.delta") == "Pong."
    assert app.rows()[-1]["status"] == "ok"


def test_a_stream_that_breaks_off_fails_and_never_completes(app: AppClient) -> None:
    stream = events(respond(app, model="broken", stream=True))
    assert stream[-1]["type"] == "response.failed"
    assert stream[-1]["response"]["id"] == stream[0]["response"]["id"]
    assert not any(event["type"] == "response.completed" for event in stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_from_a_kept_response(app: AppClient, stream: bool) -> None:
    first = respond(app, "My name is Ada.", stream=stream)
    first_id = events(first)[-1]["response"]["id"] if stream else first.json["id"]
    second = respond(app, "What is it?", previous_response_id=first_id)
    assert second.status_code == 200, second.text
    assert second.json["previous_response_id"] == first_id
    third = respond(app, "And now?", previous_response_id=second.json["id"])
    items = show(app, f"{third.json['id']}/input_items?order=asc").json
    texts = [content if isinstance(content := item["content"], str) else content[0]["text"] for item in items["data"]]
    assert texts == ["My name is Ada.", "Pong.", "What is it?", "Pong.", "And now?"]
    assert third.json["usage"]["input_tokens"] > second.json["usage"]["input_tokens"]


def test_a_kept_response_is_returned_as_it_was(app: AppClient) -> None:
    made = respond(app)
    assert show(app, made.json["id"]).json == made.json
    assert show(app, made.json["id"], "DELETE").json == {"id": made.json["id"], "object": "response", "deleted": True}
    assert show(app, made.json["id"]).status_code == 404
    assert show(app, made.json["id"], "DELETE").status_code == 404
    again = respond(app, previous_response_id=made.json["id"])
    assert (again.status_code, again.json["error"]["param"]) == (404, "previous_response_id")


def test_another_keys_response_does_not_exist(app: AppClient) -> None:
    made = respond(app)
    other, _ = app.services.keys.create("other")
    for method in ("GET", "DELETE"):
        assert show(app, made.json["id"], method, other).status_code == 404
    assert show(app, f"{made.json['id']}/input_items", key=other).status_code == 404
    body = json.dumps({"model": "echo", "input": "x", "previous_response_id": made.json["id"]})
    assert app.post(body, key=other, path="/v1/responses").status_code == 404
    assert show(app, made.json["id"]).status_code == 200


def test_a_response_that_is_not_to_be_kept_is_not(app: AppClient) -> None:
    made = respond(app, store=False)
    assert made.json["store"] is False
    assert show(app, made.json["id"]).status_code == 404
    assert app.keys("penstock:response:*") == []


def test_a_response_that_failed_is_not_kept(app: AppClient) -> None:
    stream = events(respond(app, model="broken", stream=True))
    assert show(app, stream[0]["response"]["id"]).status_code == 404


def test_a_response_that_is_too_long_is_answered_and_not_kept(app: AppClient) -> None:
    made = respond(app, "x" * 30_000)
    assert made.status_code == 200
    assert show(app, made.json["id"]).status_code == 404


def test_a_keys_oldest_responses_make_room(app: AppClient) -> None:
    made = [respond(app, "x" * 8_000).json["id"] for _ in range(8)]
    kept = [show(app, response_id).status_code == 200 for response_id in made]
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (False, True)
    sizes = app.services.redis.execute("HGET", "penstock:responses:sizes", "all")
    assert 0 < int(sizes) <= 60_000
    assert app.services.redis.execute("ZCARD", "penstock:responses") == sum(kept)


def test_a_conversation_in_use_is_kept_whole(app: AppClient) -> None:
    first = respond(app)
    key = app.keys("penstock:response:*")[0]
    app.services.redis.execute("PEXPIRE", key, 5_000)
    respond(app, previous_response_id=first.json["id"])
    assert app.services.redis.execute("PTTL", key) > 500_000


def test_a_conversation_is_no_longer_than_a_body_may_be(app: AppClient) -> None:
    response_id = None
    for _ in range(8):
        made = respond(app, "x" * 15_000, **({"previous_response_id": response_id} if response_id else {}))
        if made.status_code != 200:
            break
        response_id = made.json["id"]
    assert made.status_code in (404, 413)  # its beginning was forgotten, or it is too long


def test_an_item_of_ours_can_be_referred_to(app: AppClient) -> None:
    made = respond(app)
    item_id = made.json["output"][0]["id"]
    given = [
        {"role": "user", "content": "ping"},
        {"type": "item_reference", "id": item_id},
        {"role": "user", "content": "x"},
    ]
    found = respond(app, given)
    assert found.status_code == 200, found.text
    items = show(app, f"{found.json['id']}/input_items?order=asc").json["data"]
    assert items[1]["content"][0]["text"] == "Pong."
    unknown = respond(app, [{"type": "item_reference", "id": "msg_1"}])
    assert (unknown.status_code, unknown.json["error"]["param"]) == (400, "input[0].item_reference")


def test_input_items_come_in_pages(app: AppClient) -> None:
    made = respond(app, [{"role": "user", "content": text} for text in "abc"])
    first = show(app, f"{made.json['id']}/input_items?limit=2").json
    assert ([item["content"] for item in first["data"]], first["has_more"]) == (["c", "b"], True)
    rest = show(app, f"{made.json['id']}/input_items?limit=2&after={first['last_id']}").json
    assert ([item["content"] for item in rest["data"]], rest["has_more"]) == (["a"], False)
    assert show(app, f"{made.json['id']}/input_items?after=x").status_code == 404


def test_an_answer_is_given_though_redis_cannot_keep_it(app: AppClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Responses, key_id: str, stored: StoredResponse) -> bool:
        raise StoreUnavailable("Redis is full.")

    monkeypatch.setattr(Responses, "keep", fail)
    found = respond(app)
    assert found.status_code == 200
    assert events(respond(app, stream=True))[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x", "model": "nobody"}, "model"),
        ({"model": "echo"}, "input"),
        ({"model": "echo", "input": "x", "background": True}, "background"),
        ({"model": "echo", "input": "x", "tools": [{"type": "web_search"}]}, "tools[0].web_search"),
        ({"model": "echo", "input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        (
            {"model": "echo", "input": "x", "previous_response_id": "resp_1", "conversation": "c"},
            "previous_response_id",
        ),
    ],
)
def test_a_refusal_is_told_as_openai_does(app: AppClient, body: dict[str, Any], param: str) -> None:
    found = app.post(json.dumps(body), path="/v1/responses")
    assert 400 <= found.status_code < 500
    assert found.json["error"]["type"] == "invalid_request_error"
    assert found.json["error"]["param"] in (param, None)


def test_tokens_are_counted_with_the_conversation(app: AppClient) -> None:
    def count(**body: Any) -> Any:
        return app.post(json.dumps({"model": "echo", **body}), path="/v1/responses/input_tokens").json

    short = count(input="ping")
    assert (short["object"], short["input_tokens"] > 0) == ("response.input_tokens", True)
    made = respond(app, "ping " * 500)
    continued = count(input="ping", previous_response_id=made.json["id"])
    assert continued["input_tokens"] > short["input_tokens"] + 400
    assert count(previous_response_id=made.json["id"])["input_tokens"] < continued["input_tokens"]
    assert count(input=5)["error"]["param"] == "input"
    assert [row["endpoint"] for row in app.rows()] == ["responses"]


def test_a_websocket_is_refused_at_once(app: AppClient) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    refused = app.send("GET", "/v1/responses", headers=upgrade)
    assert (refused.status_code, refused.json["error"]["code"]) == (426, "INVALID_REQUEST")
    assert app.send("GET", "/v1/responses").status_code == 405


@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "/v1/v1/responses", "/v1/responses/"])
def test_the_endpoint_is_found_by_every_spelling(app: AppClient, path: str) -> None:
    assert app.post(json.dumps({"model": "echo", "input": "x"}), path=path).status_code == 200


CURSORS = {
    "model": "echo",
    "input": [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": [{"type": "input_text", "text": "ping"}]},
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
    ],
    "tools": [
        {"type": "function", "name": "read", "parameters": {"type": "object"}},
        {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"}},
    ],
    "reasoning": {"effort": "low"},
    "metadata": {"a": "b"},
}


def test_a_responses_request_for_a_chat_gets_a_chat(app: AppClient) -> None:
    found = app.post(json.dumps(CURSORS))
    assert found.status_code == 200, found.text
    assert found.json["choices"][0]["message"]["content"] == "Pong."
    assert "metadata" in found.headers["x-penstock-dropped"]
    stream = app.post(json.dumps({**CURSORS, "stream": True})).text
    assert '"object":"chat.completion.chunk"' in stream
    assert stream.endswith("data: [DONE]\n\n")


def test_a_responses_request_for_a_chat_keeps_its_parts(app: AppClient) -> None:
    request, dropped = as_chat_request(json.dumps(CURSORS).encode())
    tools = json.loads(bytes(request.tools))
    assert [tool["type"] for tool in tools] == ["function", "custom"]
    assert tools[1]["custom"]["format"]["grammar"] == {"syntax": "lark", "definition": "start: X"}
    messages = json.loads(bytes(request.fields["messages"]))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[2]["tool_calls"][0]["custom"] == {"name": "patch", "input": "*** Begin"}
    assert dropped == ["metadata"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].web_search"),
        ({"input": 5}, "input"),
    ],
)
def test_a_chat_cannot_have_all_of_a_response(app: AppClient, more: dict[str, Any], param: str) -> None:
    refused = app.post(json.dumps({**CURSORS, **more}))
    assert (refused.status_code, refused.json["error"]["param"]) == (400, param)


BODY = json.dumps({"model": "echo", "input": "ping " * 100}).encode()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("zstd", zstandard.compress(BODY)),
        ("ZSTD", zstandard.compress(BODY[:50]) + zstandard.compress(BODY[50:])),
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
        ("identity", BODY),
    ],
)
def test_a_compressed_body_is_read(app: AppClient, encoding: str, body: bytes) -> None:
    found = app.post(body, headers={"Content-Encoding": encoding}, path="/v1/responses")
    assert found.status_code == 200, found.text


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("zstd", zstandard.compress(b" " * 300_000_000, level=1), 413),
        ("gzip", gzip.compress(b" " * 60_000_000, mtime=0), 413),
        ("zstd", b"not zstd at all", 400),
        ("zstd", zstandard.compress(BODY)[:-9], 400),
        ("gzip", gzip.compress(BODY, mtime=0)[:-12], 400),
        ("gzip", gzip.compress(BODY, mtime=0) + b"more", 400),
        ("deflate", b"\xff\xff", 400),
        ("br", BODY, 415),
        ("zstd, gzip", BODY, 415),
    ],
    ids=["zstd-bomb", "gzip-bomb", "no-zstd", "cut-zstd", "cut-gzip", "more-than-gzip", "no-deflate", "br", "two"],
)
def test_a_compressed_body_that_cannot_be_read_is_refused(
    app: AppClient, encoding: str, body: bytes, status: int
) -> None:
    assert len(body) < 100_000
    found = app.post(body, headers={"Content-Encoding": encoding}, path="/v1/responses")
    assert found.status_code == status, found.text
    assert found.json["error"]["type"] == "invalid_request_error"
    assert app.rows() == []
