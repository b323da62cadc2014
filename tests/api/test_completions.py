"""OpenAI's older text completions: a chat call in every respect but the shape of body and answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.api.completions import TextStream, text_completion
from app.errors import GatewayError, UpstreamError
from app.gateway.call import Report
from tests.api.conftest import AppClient
from tests.support.response import AppResponse
from tests.support.upstream import Upstream

CONFIG = """
providers:
  demo: {kind: demo, script: {chunk_delay_s: 0, reply: one two three}}
  broken: {kind: demo, script: {chunk_delay_s: 0, reply: a b c d e, cut_after_chunks: 3}}
  up: {kind: openai, base_url: "%s"}
models:
  m: {targets: [{provider: demo}]}
  broken: {targets: [{provider: broken}]}
  echo: {targets: [{provider: up}]}
  status-503: {targets: [{provider: up}]}
plans: {default: {}, one: {requests_per_day: 1}}
retry: {max_attempts: 1}
"""


class CompletionsClient:
    def __init__(self, client: AppClient) -> None:
        self.edge = client

    def __call__(self, prompt: Any = "Say it", *, path: str = "/v1/completions", **more: Any) -> AppResponse:
        return self.edge.post(json.dumps({"model": "m", "prompt": prompt, **more}), path=path)

    def refused(self, *args: Any, **more: Any) -> tuple[int, Any, str]:
        response = self(*args, **more)
        return response.status_code, response.json["error"]["param"], response.json["error"]["message"]


@pytest.fixture
def complete(client_with: Callable[[str], AppClient], upstream: Upstream) -> CompletionsClient:
    return CompletionsClient(client_with(CONFIG % upstream.url))


def events(response: AppResponse) -> list[str]:
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return [line.removeprefix("data: ") for line in response.text.splitlines() if line]


@pytest.mark.parametrize("path", ["/v1/completions", "/api/v1/completions", "/completions"])
@pytest.mark.parametrize("prompt", ["Say it", ["Say it"]])
def test_a_prompt_is_completed_in_the_older_shape(complete: CompletionsClient, path: str, prompt: Any) -> None:
    response = complete(prompt, path=path)
    assert response.status_code == 200, response.text
    answer = response.json
    assert answer["id"].startswith("cmpl-req_")
    assert (answer["object"], answer["model"], type(answer["created"])) == ("text_completion", "m", int)
    assert answer["choices"] == [{"text": "one two three", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert (response.headers["x-penstock-provider"], response.headers["x-penstock-cost-usd"]) == ("demo", "0.000008")
    [row] = complete.edge.rows()
    assert (row["endpoint"], row["status"], row["completion_tokens"]) == ("completions", "ok", 3)
    assert row["cost_nanousd"] == 2 * 1000 + 3 * 2000


def test_a_stream_says_the_same_in_pieces(complete: CompletionsClient) -> None:
    *data, done = events(complete(stream=True, n=2, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    *chunks, last = map(json.loads, data)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 6)
    assert {(chunk["object"], chunk["usage"], chunk["id"][:5]) for chunk in chunks} == {
        ("text_completion", None, "cmpl-")
    }
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in (0, 1):
        own = [part for part in parts if part["index"] == index]
        assert "".join(part["text"] for part in own) == "one two three"
        assert [part["finish_reason"] for part in own] == [None, None, None, "stop"]
    [row] = complete.edge.rows()
    assert (row["endpoint"], row["streamed"], row["completion_tokens"]) == ("completions", True, 6)


def test_only_who_asks_is_told_the_usage_of_a_stream(complete: CompletionsClient) -> None:
    assert all("usage" not in json.loads(data) for data in events(complete(stream=True))[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_comes_first_when_its_echo_is_asked_for(complete: CompletionsClient, stream: bool) -> None:
    response = complete("Say it: ", echo=True, n=2, stream=stream)
    found = [json.loads(data) for data in events(response)[:-1]] if stream else [response.json]
    texts = {0: "", 1: ""}
    for choice in [choice for chunk in found for choice in chunk["choices"]]:
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "Say it: one two three", 1: "Say it: one two three"}


def test_bounds_and_stops_are_honoured(complete: CompletionsClient) -> None:
    [cut] = complete(max_tokens=1).json["choices"]
    assert (cut["text"], cut["finish_reason"]) == ("one", "length")
    [stopped] = complete(stop=" three").json["choices"]
    assert (stopped["text"], stopped["finish_reason"]) == ("one two", "stop")


def test_a_vendor_is_asked_for_a_chat(complete: CompletionsClient) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.9,
        "max_tokens": 7,
        "brand_new": {"x": 1},
        "echo": False,
        "best_of": 1,
        "suffix": "",
        "logprobs": None,
    }
    text = complete("Grüß Gott", model="echo", **asked).json["choices"][0]["text"]
    head, _, body = text.partition("\n\n")
    assert head.startswith("POST /v1/chat/completions ")
    assert json.loads(body) == {
        "model": "echo",
        "temperature": 0.9,
        "max_tokens": 7,
        "brand_new": {"x": 1},
        "messages": [{"role": "user", "content": "Grüß Gott"}],
    }


def test_the_gateway_picks_the_model_auto_here_too(complete: CompletionsClient) -> None:
    response = complete(model="auto")
    assert (response.headers["x-penstock-model"], response.headers["x-penstock-route-reason"]) == ("m", "default")


def test_a_call_that_names_no_model_gets_the_default_one(complete: CompletionsClient) -> None:
    assert complete.edge.post(b'{"prompt":"Hi"}', path="/v1/completions").headers["x-penstock-model"] == "m"


def test_an_answer_is_kept_as_a_chats_is(complete: CompletionsClient) -> None:
    first, again = complete(temperature=0), complete(temperature=0)
    assert [r.headers["x-penstock-cache"] for r in (first, again)] == ["miss", "hit"]
    assert (again.json["cached"], again.json["choices"]) == (True, first.json["choices"])
    *data, done = events(complete(temperature=0, stream=True))
    assert "".join(c["text"] for chunk in map(json.loads, data) for c in chunk["choices"]) == "one two three"
    assert done == "[DONE]"
    assert complete.edge.asked == ["demo"]


def test_limits_hold(complete: CompletionsClient) -> None:
    key, _ = complete.edge.services.keys.create("x", plan="one")
    body = json.dumps({"model": "m", "prompt": "Hi"})
    sent = [complete.edge.post(body, key=key, path="/v1/completions").status_code for _ in range(2)]
    assert sent == [200, 429]
    assert complete.edge.post(body, key="wrong", path="/v1/completions").status_code == 401


def test_a_stream_that_is_cut_ends_with_an_error(complete: CompletionsClient) -> None:
    *said, last = events(complete(model="broken", stream=True))
    assert "".join(json.loads(data)["choices"][0]["text"] for data in said) == "a b c"
    assert json.loads(last)["error"]["code"] == "MODEL_ERROR"
    assert complete(model="status-503", stream=True).status_code == 503
    assert [row["status"] for row in complete.edge.rows()] == ["error", "error"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2], [3]]}, "prompt"),
        ({"prompt": [None]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"suffix": "."}, "suffix"),
        ({"suffix": 5}, "suffix"),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"best_of": 0}, "best_of"),
        ({"echo": "yes"}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": "x"}, "n"),
        ({"temperature": 9}, "temperature"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"tools": [{}]}, "tools"),
        ({"Prompt": "x"}, "Prompt"),
        ({"ECHO": True}, "ECHO"),
        ({"Max_Tokens": 5}, "Max_Tokens"),
        ({"stream_options": 5}, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(complete: CompletionsClient, body: dict[str, Any], param: str) -> None:
    status, named, message = complete.refused(**body)
    assert (status, named) == (400, param)
    assert f"`{param}`" in message
    assert complete.edge.rows() == []


def test_a_body_without_a_prompt_is_refused(complete: CompletionsClient) -> None:
    for body in (b'{"model":"m"}', b"[]", b"", b"{", b'{"model":"m","prompt":"\\ud800"}'):
        assert complete.edge.post(body, path="/v1/completions").status_code == 400


ODD = [
    b"{}",
    b'{"choices":5}',
    b'{"choices":[5]}',
    b'{"choices":[{"message":5}]}',
    b'{"choices":[{"message":{"content":5}}]}',
]


@pytest.mark.parametrize("answer", [*ODD, b"[]", b"x"])
def test_an_odd_answer_is_an_error_and_no_guess(answer: bytes) -> None:
    with pytest.raises(UpstreamError, match="up"):
        text_completion(answer, "", "up")


class FakeStream:
    """A stream of blocks."""

    report = Report("m", "up", "miss", 1, 1.0, (), None)
    heartbeat = b": keep-alive\n\n"
    ending = b"data: [DONE]\n\n"

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = blocks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("chunk", [b'{"choices":[5]}', b'{"choices":[{"delta":5}]}', b"[]", b'{"choices":5}', b"x"])
def test_an_odd_chunk_is_an_error_and_no_guess(chunk: bytes) -> None:
    with pytest.raises(UpstreamError, match="up"):
        list(TextStream(FakeStream(b"data: " + chunk + b"\n\n"), ""))


def test_blocks_of_several_events_heartbeats_and_parts_come_through() -> None:
    def chunk(delta: str, more: str = "") -> bytes:
        return f'data: {{"id":"chatcmpl-1","choices":[{{"index":0,"delta":{delta}{more}}}]}}\n\n'.encode()

    chunks = FakeStream(
        chunk('{"role":"assistant","content":""}'),
        b"",
        chunk('{"content":"a"}') + chunk('{"content":[{"type":"text","text":"b"},{"type":"x"}]}'),
        chunk('{"refusal":"No."}'),
        chunk("null"),
        chunk("{}", ',"finish_reason":"content_filter"'),
    )
    stream = TextStream(chunks, "")
    blocks = list(stream)
    assert [len(block.split(b"\n\n")) - 1 for block in blocks] == [0, 2, 1, 1]
    found = [json.loads(event[6:]) for event in b"".join(blocks).split(b"\n\n") if event]
    assert [c["choices"][0]["text"] for c in found] == ["a", "b", "No.", ""]
    assert found[-1]["choices"][0]["finish_reason"] == "content_filter"
    stream.close()
    assert chunks.closed
