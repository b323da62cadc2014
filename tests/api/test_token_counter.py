"""Token counter: the vendor's count where it has one, ours where not; a request of the plan's, and no row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from app.domain.chat import ChatRequest
from app.domain.gemini import GeminiRequest
from app.domain.generation import GenerationRequest
from app.domain.messages import MessagesRequest
from app.domain.responses import ResponsesRequest
from app.errors import ModelNotFound, RateLimited, UpstreamRejected
from app.gateway.call import CallContext
from app.gateway.token_counter import TokenCount
from tests.api.conftest import AppClient
from tests.support.providers import scripted_server

CONFIG = """
providers:
  claude: {kind: anthropic, base_url: "%(url)s", api_key: k}
  gemini: {kind: gemini, base_url: "%(url)s", api_key: k}
  openai: {kind: openai, base_url: "%(url)s", api_key: k}
  here: {kind: demo}
models:
  m: {targets: [{provider: claude, model: claude-opus-5}]}
  g: {targets: [{provider: gemini, model: gemini-2.5-pro}]}
  r: {targets: [{provider: openai, model: gpt-5}], wire: responses}
  c: {targets: [{provider: openai, model: gpt-4o}], wire: chat}
  demo: {targets: [here]}
plans: {default: {requests_per_day: 5, tokens_per_day: 10}}
"""
HELLO = {"role": "user", "content": "Hello, Claude"}
REQUESTS: dict[str, GenerationRequest] = {
    "chat": ChatRequest.parse(json.dumps({"model": "m", "messages": [HELLO]}).encode()),
    "messages": MessagesRequest.parse(json.dumps({"model": "m", "max_tokens": 5, "messages": [HELLO]}).encode()),
    "responses": ResponsesRequest.parse(json.dumps({"model": "m", "input": "Hello, Claude"}).encode()),
    "gemini": GeminiRequest.parse(
        json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello, Claude"}]}]}).encode(), "m", False
    ),
}


class Vendor:
    """A vendor that answers every request alike, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.answer: dict[str, Any] = {"input_tokens": 14, "totalTokens": 15}
        self.asked: list[bytes] = []

    def __call__(self, sock: Any) -> None:
        body = json.dumps(self.answer).encode()
        sock.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (self.status, len(body)))
        sock.sendall(body)

    @property
    def path(self) -> str:
        return self.asked[-1].split()[1].decode()

    @property
    def body(self) -> Any:
        return json.loads(self.asked[-1].partition(b"\r\n\r\n")[2])


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
def client(vendor: Vendor, client_with: Callable[[str], AppClient]) -> Iterator[AppClient]:
    with scripted_server(vendor, vendor.asked) as url:
        yield client_with(CONFIG % {"url": url})


def count(client: AppClient, request: GenerationRequest, model: str = "m") -> TokenCount:
    caller = client.services.callers.verify(client.key)
    return client.services.token_counter.count(caller, request.with_model(model), CallContext("req_1", uuid4().hex))


@pytest.mark.parametrize(
    ("dialect", "model", "path", "tokens"),
    [
        ("messages", "m", "/v1/messages/count_tokens", 14),
        ("gemini", "g", "/v1/models/gemini-2.5-pro:countTokens", 15),
        ("responses", "r", "/v1/responses/input_tokens", 14),
    ],
)
def test_a_vendor_of_the_callers_dialect_counts(
    client: AppClient, vendor: Vendor, dialect: str, model: str, path: str, tokens: int
) -> None:
    counted = count(client, REQUESTS[dialect], model)
    assert (counted.tokens, counted.exact, json.loads(counted.body)) == (tokens, True, vendor.answer)
    assert vendor.path == path
    sent = vendor.body.get("generateContentRequest", vendor.body)
    assert sent.pop("model") in ("claude-opus-5", "models/gemini-2.5-pro", "gpt-5")
    as_asked = {name: json.loads(bytes(value)) for name, value in REQUESTS[dialect].fields.items() if name != "model"}
    assert sent == as_asked


@pytest.mark.parametrize("dialect", REQUESTS)
@pytest.mark.parametrize("model", ["m", "g", "r"])
def test_a_vendor_of_another_dialect_is_asked_in_its_own(
    client: AppClient, vendor: Vendor, dialect: str, model: str
) -> None:
    counted = count(client, REQUESTS[dialect], model)
    assert counted.exact
    assert "Hello, Claude" in json.dumps(vendor.body)
    assert not {"max_tokens", "max_output_tokens", "stream", "temperature"} & set(vendor.body) or dialect == "messages"


@pytest.mark.parametrize("model", ["c", "demo"])
def test_without_an_endpoint_of_the_vendors_we_count(client: AppClient, vendor: Vendor, model: str) -> None:
    counted = count(client, REQUESTS["chat"], model)
    assert (counted.exact, counted.body, vendor.asked) == (False, b"", [])
    assert 4 <= counted.tokens <= 40


@pytest.mark.parametrize("status", [429, 500, 529, 401])
def test_a_vendor_that_fails_leaves_the_count_to_us(client: AppClient, vendor: Vendor, status: int) -> None:
    vendor.status = status
    assert not count(client, REQUESTS["messages"]).exact
    vendor.status = 200
    assert count(client, REQUESTS["messages"]).exact


def test_a_vendor_that_has_no_such_endpoint_is_not_asked_again(client: AppClient, vendor: Vendor) -> None:
    vendor.status = 404
    assert [count(client, REQUESTS["messages"]).exact for _ in range(3)] == [False] * 3
    assert len(vendor.asked) == 1


@pytest.mark.parametrize("answer", [{}, {"input_tokens": "many"}, {"input_tokens": -1}, {"input_tokens": None}])
def test_an_answer_without_a_count_leaves_it_to_us(client: AppClient, vendor: Vendor, answer: dict[str, Any]) -> None:
    vendor.answer = answer
    assert not count(client, REQUESTS["messages"]).exact


def test_a_refusal_is_told_to_callers_of_the_vendors_dialect(client: AppClient, vendor: Vendor) -> None:
    vendor.status = 400
    vendor.answer = {"type": "error", "error": {"type": "invalid_request_error", "message": "messages: too few"}}
    with pytest.raises(UpstreamRejected, match="messages: too few"):
        count(client, REQUESTS["messages"])
    assert not count(client, REQUESTS["chat"]).exact


def test_a_count_is_a_request_and_leaves_no_row(client: AppClient) -> None:
    left = [count(client, REQUESTS["chat"], "demo").remaining for _ in range(5)]
    assert [{row.limit: row.left for row in rows} for rows in left] == [
        {"requests_per_day": 4 - i, "tokens_per_day": 10} for i in range(5)
    ]
    with pytest.raises(RateLimited):
        count(client, REQUESTS["chat"], "demo")
    assert client.rows() == []
    assert client.keys("penstock:reservations:*") == []


def test_an_unknown_model_is_not_counted(client: AppClient) -> None:
    with pytest.raises(ModelNotFound):
        count(client, REQUESTS["chat"], "nobody")
