"""Google's endpoints, as a client of its API sees the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.domain.identity import new_key
from tests.api.conftest import KEY, AppClient
from tests.support.response import AppResponse
from tests.support.vendors.server import Vendors

CONFIG = """
providers:
  demo: {{kind: demo, script: {{chunk_delay_s: 0}}}}
  cut: {{kind: demo, script: {{chunk_delay_s: 0, cut_after_chunks: 3}}}}
  down: {{kind: demo, script: {{chunk_delay_s: 0, fail_status: 503}}}}
  google: {{kind: gemini, base_url: {gemini}, api_key: sk-vendor-key-of-tests}}
  claude: {{kind: anthropic, base_url: {messages}, api_key: sk-vendor-key-of-tests}}
models:
  m: {{targets: [{{provider: demo}}]}}
  vendor/m: {{targets: [{{provider: demo}}]}}
  cut: {{targets: [{{provider: cut}}]}}
  down: {{targets: [{{provider: down}}]}}
  google: {{targets: [{{provider: google, model: gemini-3-plain}}]}}
  picky: {{targets: [{{provider: google, model: status-400}}]}}
  tools: {{targets: [{{provider: claude, model: tools-think}}]}}
  vectors: {{kind: embedding, targets: [{{provider: demo}}]}}
retry: {{max_attempts: 1}}
"""
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]}
PREFIXES = ("/v1beta", "/v1", "/api/v1", "", "/v1beta/v1beta", "/gemini/v1beta")


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with Vendors() as played:
        yield played


@pytest.fixture
def app(client_with: Callable[[str], AppClient], vendors: Vendors) -> AppClient:
    vendors.reset()
    return client_with(CONFIG.format(gemini=vendors.base_url("gemini"), messages=vendors.base_url("messages")))


def ask(app: AppClient, model: str = "m", method: str = "generateContent", **body: Any) -> AppResponse:
    return app.post(json.dumps({**HELLO, **body}), path=f"/v1beta/models/{model}:{method}")


def chunks(response: AppResponse) -> list[dict[str, Any]]:
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = response.text.removesuffix("\n\n").split("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in events if event]


def text_of(answers: list[dict[str, Any]]) -> str:
    parts = [part for each in answers for part in each["candidates"][0]["content"].get("parts", ())]
    return "".join(part.get("text", "") for part in parts)


@pytest.mark.parametrize("model", ["m", "models/m", "vendor/m"])
def test_a_prompt_is_answered_in_googles_shape(app: AppClient, model: str) -> None:
    response = ask(app, model)
    assert response.status_code == 200, response.text
    body = response.json
    assert body["candidates"][0]["finishReason"] == "STOP"
    assert body["candidates"][0]["content"]["role"] == "model"
    assert response.headers["x-penstock-provider"] == "demo"
    [row] = app.rows()
    assert (row["endpoint"], row["status"]) == ("generate_content", "ok")
    assert row["model"] == model.removeprefix("models/")
    assert row["prompt_tokens"] == body["usageMetadata"]["promptTokenCount"]
    assert row["completion_tokens"] == body["usageMetadata"]["candidatesTokenCount"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_paths_that_clients_make_of_a_base_url_are_served(app: AppClient, prefix: str) -> None:
    response = app.post(json.dumps(HELLO), path=f"{prefix}/models/m:generateContent")
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("model", ["m", "google"])
def test_a_stream_ends_with_a_finish_reason_and_no_marker(app: AppClient, model: str) -> None:
    whole = text_of([ask(app, model).json])
    response = ask(app, model, "streamGenerateContent?alt=sse")
    found = chunks(response)
    assert text_of(found) == whole
    assert [bool(each["candidates"][0].get("finishReason")) for each in found] == [False] * (len(found) - 1) + [True]
    assert found[-1]["usageMetadata"]["totalTokenCount"]
    assert "[DONE]" not in response.text
    assert app.rows()[-1]["streamed"]


def test_without_sse_a_stream_is_an_array(app: AppClient) -> None:
    response = ask(app, method="streamGenerateContent")
    assert response.headers["Content-Type"] == "application/json"
    assert text_of(response.json) == text_of(chunks(ask(app, method="streamGenerateContent?alt=sse")))


@pytest.mark.parametrize("query", ["", "?alt=sse"])
def test_a_stream_that_breaks_off_ends_with_an_error(app: AppClient, query: str) -> None:
    response = ask(app, "cut", f"streamGenerateContent{query}")
    found = chunks(response) if query else response.json
    assert found[-1]["error"]["status"] == "UNAVAILABLE"
    assert not any(each["candidates"][0].get("finishReason") for each in found[:-1])


def test_to_a_vendor_of_the_dialect_the_request_passes_as_it_is(app: AppClient, vendors: Vendors) -> None:
    settings = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    response = ask(app, "google", safetySettings=settings)
    assert response.status_code == 200, response.text
    [request] = vendors.requests()
    assert request["path"] == "/v1beta/models/gemini-3-plain:generateContent"
    assert request["body"] == {**HELLO, "safetySettings": settings}
    assert request["headers"]["x-goog-api-key"] == "sk-vendor-key-of-tests"
    assert app.rows()[0]["provider"] == "google"


def test_a_vendors_own_error_passes_as_it_is(app: AppClient) -> None:
    response = ask(app, "picky")
    assert (response.status_code, response.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "The vendor says 400." in response.json["error"]["message"]


def test_a_tool_loop_keeps_another_vendors_signatures(app: AppClient, vendors: Vendors) -> None:
    tool = {"name": "look", "description": "Looks.", "parametersJsonSchema": {"type": "object", "properties": {}}}
    tools: dict[str, Any] = {
        "tools": [{"functionDeclarations": [tool]}],
        "generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}},
    }
    first = ask(app, "tools", **tools)
    assert first.status_code == 200, first.text
    content = first.json["candidates"][0]["content"]
    # As Gemini CLI does: thoughts are thrown away.
    kept = [part for part in content["parts"] if not part.get("thought")]
    call = next(part["functionCall"] for part in kept if "functionCall" in part)
    result = {"functionResponse": {"id": call["id"], "name": call["name"], "response": {"output": "a cat"}}}
    turns = [*HELLO["contents"], {"role": "model", "parts": kept}, {"role": "user", "parts": [result]}]
    second = ask(app, "tools", **{**tools, "contents": turns})
    assert second.status_code == 200, second.text
    assert "a cat" in text_of([second.json])
    assistant = vendors.requests()[-1]["body"]["messages"][1]["content"]
    assert [block["type"] for block in assistant][:1] == ["thinking"]
    assert assistant[0]["signature"]


@pytest.mark.parametrize(
    ("model", "body", "status", "name"),
    [
        ("m", "{", 400, "INVALID_ARGUMENT"),
        ("m", "{}", 400, "INVALID_ARGUMENT"),
        ("m", json.dumps({"contents": [{"role": "x", "parts": []}]}), 400, "INVALID_ARGUMENT"),
        ("m", json.dumps({**HELLO, "tools": [{"googleSearch": {}}]}), 400, "INVALID_ARGUMENT"),
        ("nowhere", json.dumps(HELLO), 404, "NOT_FOUND"),
        ("down", json.dumps(HELLO), 503, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("method", ["generateContent", "streamGenerateContent?alt=sse"])
def test_an_error_has_googles_shape(app: AppClient, model: str, body: str, status: int, name: str, method: str) -> None:
    response = app.post(body, path=f"/v1beta/models/{model}:{method}")
    assert response.status_code == status, response.text
    error = response.json["error"]
    assert (error["code"], error["status"]) == (status, name)
    assert error["details"]


def test_what_is_no_method_or_no_path_is_an_error_in_googles_shape(app: AppClient) -> None:
    for path, found in (("models/m:predict", (405, "UNIMPLEMENTED")), ("nowhere", (404, "NOT_FOUND"))):
        response = app.post(json.dumps(HELLO), path=f"/v1beta/{path}")
        assert (response.status_code, response.json["error"]["status"]) == found


@pytest.mark.parametrize("path", ["/v1beta/models/m:generateContent", "/v1beta/models"])
def test_a_key_is_taken_from_googles_header_and_from_the_query(app: AppClient, path: str) -> None:
    def status(suffix: str = "", **headers: str) -> int:
        method = "POST" if ":" in path else "GET"
        sent = {"Content-Type": "application/json", **headers}
        response = app.send(method, path + suffix, headers=sent, data=json.dumps(HELLO))
        if response.status_code == 401:
            assert response.json["error"]["status"] == "UNAUTHENTICATED"
        return response.status_code

    unknown = new_key()
    assert status(**{"x-goog-api-key": KEY}) == 200
    assert status(f"?key={KEY}") == 200
    assert status(f"?alt=json&key={KEY}") == 200
    assert status(f"?key={unknown}", **{"x-goog-api-key": KEY}) == 200
    assert status(**{"x-goog-api-key": "dummy", "Authorization": f"Bearer {KEY}"}) == 200
    assert status() == status("?key=") == status(f"?key={unknown}") == status(**{"x-goog-api-key": unknown}) == 401


def test_a_key_in_the_query_counts_nowhere_else(app: AppClient) -> None:
    assert app.send("GET", f"/v1/batches?key={KEY}").status_code == 401


def test_a_key_in_the_query_is_not_logged(app: AppClient, capsys: pytest.CaptureFixture[str]) -> None:
    app.send(
        "POST",
        f"/v1beta/models/m:generateContent?key={KEY}",
        data=json.dumps(HELLO),
        headers={"Content-Type": "application/json"},
    )
    app.send("GET", f"/v1beta/models?key={KEY}")
    app.send("GET", f"/v1beta/nowhere?key={KEY}")
    logged = capsys.readouterr()
    assert KEY not in logged.out + logged.err
    assert KEY not in app.send("GET", "/metrics").text


def test_models_are_listed_as_google_lists_them(app: AppClient) -> None:
    listed = {each["name"]: each for each in app.get("/v1beta/models", key=KEY).json["models"]}
    assert {"models/m", "models/vendor/m", "models/vectors"} <= set(listed)
    assert "generateContent" in listed["models/m"]["supportedGenerationMethods"]
    assert listed["models/vectors"]["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]
    assert app.get("/v1beta/models/vendor/m", key=KEY).json == listed["models/vendor/m"]
    unknown = app.get("/v1beta/models/nowhere", key=KEY)
    assert (unknown.status_code, unknown.json["error"]["status"]) == (404, "NOT_FOUND")


def embed(app: AppClient, method: str, body: Any) -> AppResponse:
    return app.post(json.dumps(body), path=f"/v1beta/models/vectors:{method}")


def test_texts_are_embedded_one_or_several(app: AppClient) -> None:
    content = {"parts": [{"text": "Hello"}, {"text": "there"}]}
    one = embed(app, "embedContent", {"content": content, "taskType": "RETRIEVAL_QUERY"})
    assert one.status_code == 200, one.text
    assert one.json["embedding"]["values"]
    requests = [{"model": "models/vectors", "content": content}, {"content": {"parts": {"text": "x"}}}]
    several = embed(app, "batchEmbedContents", {"requests": requests})
    assert several.json["embeddings"][0] == one.json["embedding"]
    assert len(several.json["embeddings"]) == 2
    assert several.json["usageMetadata"]["promptTokenCount"] > 0
    assert [row["endpoint"] for row in app.rows()] == ["embeddings", "embeddings"]


@pytest.mark.parametrize(
    ("method", "body", "field"),
    [
        ("embedContent", {}, "content"),
        ("embedContent", {"content": {"parts": [{"inlineData": {}}]}}, "content"),
        ("batchEmbedContents", {}, "requests"),
        ("batchEmbedContents", {"requests": [{"content": {"parts": []}}]}, "requests[0].content"),
        ("embedContent", {"content": {"parts": [{"text": "a"}]}, "title": {}}, "title"),
        ("embedContent", {"content": {"parts": [{"text": "a"}]}, "output_dimensionality": "x"}, "outputDimensionality"),
        (
            "batchEmbedContents",
            {"requests": [{"content": {"parts": {"text": "a"}}}, {"content": {"parts": {"text": "a"}}, "title": "t"}]},
            "requests[1]",
        ),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(app: AppClient, method: str, body: Any, field: str) -> None:
    response = embed(app, method, body)
    assert response.status_code == 400, response.text
    violations = [each for each in response.json["error"]["details"] if "fieldViolations" in each]
    assert violations[0]["fieldViolations"][0]["field"] == field


@pytest.mark.parametrize(
    "wrap", [lambda body: body, lambda body: {"generateContentRequest": {"model": "models/m", **body}}]
)
def test_tokens_are_counted_by_the_vendor_or_offline(
    app: AppClient, vendors: Vendors, wrap: Callable[..., Any]
) -> None:
    def count(model: str) -> AppResponse:
        return app.post(json.dumps(wrap(HELLO)), path=f"/v1beta/models/{model}:countTokens")

    assert 2 <= count("m").json["totalTokens"] < 50
    by_vendor = count("google")
    assert by_vendor.json["totalTokens"] > 0
    assert vendors.requests()[-1]["path"] == "/v1beta/models/gemini-3-plain:countTokens"
    assert count("nowhere").json["error"]["status"] == "NOT_FOUND"
    assert app.rows() == []
