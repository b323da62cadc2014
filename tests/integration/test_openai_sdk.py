"""The official SDK, unmodified, against a real gunicorn: what works with OpenAI works here."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed
from tests.support.upstream import Upstream

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
MODELS = (
    "ok",
    "stream-5-60",
    "tools",
    "echo",
    "cut-3",
    "silent",
    "status-400",
    "status-401",
    "status-404",
    "status-500",
    "status-503",
    "flaky-1-sdk",
    "text-embedding-up",
    "usage-59000-5",
)
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
  dead: {{kind: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {{{models}, refused: {{targets: [{{provider: dead}}]}}}}
plans:
  free: {{requests_per_minute: 600}}
  two: {{requests_per_minute: 60, concurrency: 1}}
  cents: {{budget_usd_per_day: 0.00001}}
  hourly: {{requests_per_day: 1}}
  tokens: {{tokens_per_minute: 60000}}
timeouts: {{first_byte_s: 0.5}}
retry: {{max_attempts: 1, breaker_threshold: 1000}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    models = ", ".join(f"{name}: {{targets: [{{provider: up}}]}}" for name in MODELS)
    directory: Path = tmp_path_factory.mktemp("sdk")
    config = CONFIG.format(url=vendor.url, models=models)
    prices = 'up: {"*": {prompt: 1, completion: 2}}'
    with Gateway(directory, config, redis_url=redis_server.url, prices=prices) as started:
        yield started


def sdk(gateway: Gateway, key: str = DEV_KEY, retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=retries)


@pytest.fixture
def client(gateway: Gateway, upstream: Upstream) -> Iterator[OpenAI]:
    with sdk(gateway) as made:
        yield made


def test_create(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="ok", messages=MESSAGES)
    assert completion.choices[0].message.content == "Hello there."
    assert completion.usage is not None
    assert completion.usage.total_tokens == 15


def test_the_model_auto_is_a_model_like_any_other(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=MESSAGES)
    assert raw.parse().choices[0].message.content == "Hello there."
    assert (raw.headers["x-penstock-model"], raw.headers["x-penstock-route-reason"]) == ("ok", "default")


def test_the_headers_tell_what_a_client_wants_to_know(gateway: Gateway) -> None:
    with sdk(gateway, gateway.create_key(plan="free")) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="ok", messages=MESSAGES, extra_headers={"X-Request-ID": "my-own-id"}
        )
    assert raw.headers["x-request-id"] == "my-own-id"
    assert raw.headers["x-ratelimit-limit-requests"] == "600"
    assert raw.headers["x-ratelimit-remaining-requests"] == "599"
    assert raw.headers["x-ratelimit-reset-requests"].endswith("ms")
    assert raw.headers["openai-processing-ms"].isdigit()
    assert (raw.headers["x-penstock-provider"], raw.headers["x-penstock-model"]) == ("up", "ok")
    assert raw.headers["x-penstock-cost-usd"] == "0.00002"


def test_a_stream_arrives_chunk_by_chunk(client: OpenAI) -> None:
    times, words = [], []
    for chunk in client.chat.completions.create(model="stream-5-60", messages=MESSAGES, stream=True):
        times.append(time.monotonic())
        assert chunk.choices, "no usage chunk for those who did not ask for one"
        words.append(chunk.choices[0].delta.content)
    assert words[:5] == ["tok "] * 5
    assert times[4] - times[0] > 0.12, "they left the vendor within 0.24 s, and came as they left"


def test_a_stream_with_usage_ends_with_it(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="stream-5-60", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5
    assert {chunk.usage for chunk in chunks} == {None}


def test_embeddings(client: OpenAI) -> None:
    answer = client.embeddings.create(model="text-embedding-up", input=["a"])
    assert answer.data[0].embedding == [1.0, 0.0]
    assert answer.usage.prompt_tokens == 7


def test_models(client: OpenAI, gateway: Gateway) -> None:
    assert {model.id for model in client.models.list()} == {*MODELS, "refused", "auto"}
    assert client.models.retrieve("ok").owned_by == "penstock"
    with sdk(gateway, gateway.create_key(models=["ok"])) as restricted:
        assert [model.id for model in restricted.models.list()] == ["ok", "auto"]
        with pytest.raises(openai.NotFoundError) as error:
            restricted.models.retrieve("echo")
        assert error.value.code == "MODEL_NOT_FOUND"


def test_tools_and_unknown_fields_pass_through(client: OpenAI) -> None:
    tool: ChatCompletionToolParam = {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object"}},
    }
    answer = client.chat.completions.create(model="tools", messages=MESSAGES, tools=[tool])
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Ulm"}')
    sent = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=[tool], extra_body={"brand_new": {"x": 1.50}}
    )
    assert '"brand_new":{"x":1.5}' in (sent.choices[0].message.content or "").replace(" ", "")


def test_each_error_is_the_class_that_clients_expect(gateway: Gateway) -> None:
    def failing(model: str = "ok", key: str = DEV_KEY, **more: Any) -> openai.APIStatusError:
        with sdk(gateway, key) as client, pytest.raises(openai.APIStatusError) as error:
            client.chat.completions.create(**{"model": model, "messages": MESSAGES, **more})
        return error.value

    only_ok = gateway.create_key(models=["ok"])
    day = gateway.create_key(plan="hourly")
    with sdk(gateway, day) as client:
        client.chat.completions.create(model="ok", messages=MESSAGES)
    table = [
        (failing(temperature=9), openai.BadRequestError, 400, "INVALID_REQUEST"),
        (failing(key="wrong"), openai.AuthenticationError, 401, "INVALID_API_KEY"),
        (failing("echo", key=only_ok), openai.PermissionDeniedError, 403, "FORBIDDEN"),
        (failing("nope"), openai.NotFoundError, 404, "MODEL_NOT_FOUND"),
        (failing(key=day), openai.RateLimitError, 429, "RATE_LIMIT_EXCEEDED"),
        (failing(key=gateway.create_key(plan="cents")), openai.RateLimitError, 429, "BUDGET_EXCEEDED"),
        (failing("status-400"), openai.BadRequestError, 400, "INVALID_REQUEST"),
        (failing("status-401"), openai.InternalServerError, 502, "MODEL_ERROR"),
        (failing("status-404"), openai.InternalServerError, 502, "MODEL_ERROR"),
        (failing("status-500"), openai.InternalServerError, 502, "MODEL_ERROR"),
        (failing("status-503"), openai.InternalServerError, 503, "MODEL_UNAVAILABLE"),
        (failing("refused"), openai.InternalServerError, 503, "MODEL_UNAVAILABLE"),
        (failing("silent"), openai.InternalServerError, 504, "TIMEOUT"),
    ]
    for error, expected, status, code in table:
        assert (type(error), error.status_code, error.code) == (expected, status, code)
        assert error.request_id
    assert table[0][0].param == "temperature"


def test_bug_02_a_stream_that_is_cut_raises(client: OpenAI) -> None:
    received: list[object] = []
    stream = client.chat.completions.create(model="cut-3", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError) as error:
        received.extend(stream)
    assert len(received) == 3
    assert error.value.code == "MODEL_ERROR"


@contextmanager
def counted(gateway: Gateway, key: str, retries: int) -> Iterator[tuple[OpenAI, list[int]]]:
    """The SDK and the statuses of all the answers it got, those of its own retries included."""
    statuses: list[int] = []
    hooks = {"response": [lambda response: statuses.append(response.status_code)]}
    with openai.DefaultHttpxClient(event_hooks=hooks) as wire:
        yield OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=retries, http_client=wire), statuses


def test_the_sdk_retries_a_vendors_failure(gateway: Gateway, upstream: Upstream) -> None:
    with counted(gateway, DEV_KEY, 2) as (client, statuses):
        assert client.chat.completions.create(model="flaky-1-sdk", messages=MESSAGES).choices
    assert statuses == [502, 200]
    assert upstream.served()["by_model"]["flaky-1-sdk"] == 2


def test_the_sdk_waits_for_a_minute_limit_as_long_as_it_is_told(gateway: Gateway) -> None:
    with counted(gateway, gateway.create_key(plan="tokens"), 2) as (client, statuses):
        client.chat.completions.create(model="usage-59000-5", messages=MESSAGES)
        # A token comes back each millisecond; about 1,200 are missing: more than the SDK's own back-off.
        assert client.chat.completions.create(model="ok", messages=MESSAGES, max_tokens=2200).choices
    assert statuses == [200, 429, 200]


@pytest.mark.parametrize("plan", ["cents", "hourly"])
def test_the_sdk_does_not_repeat_what_cannot_succeed_soon(gateway: Gateway, upstream: Upstream, plan: str) -> None:
    with counted(gateway, gateway.create_key(plan=plan), 2) as (client, statuses):
        if plan == "hourly":
            client.chat.completions.create(model="ok", messages=MESSAGES)
        before = upstream.served()["calls"]
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="ok", messages=MESSAGES)
    assert [status for status in statuses if status != 200] == [429]
    assert upstream.served()["calls"] == before


def test_a_slot_is_free_when_the_stream_is_done(gateway: Gateway) -> None:
    with sdk(gateway, gateway.create_key(plan="two")) as client:
        stream = client.chat.completions.create(model="stream-5-60", messages=MESSAGES, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="ok", messages=MESSAGES)
        list(stream)
        assert client.chat.completions.create(model="ok", messages=MESSAGES).choices


def test_every_call_has_an_id_and_one_row(gateway: Gateway) -> None:
    with sdk(gateway, gateway.create_key()) as client:
        raw = client.chat.completions.with_raw_response.create(model="ok", messages=MESSAGES)
        own = {"X-Request-ID": "the-same-id-twice"}
        for _ in range(2):
            client.chat.completions.create(model="ok", messages=MESSAGES, extra_headers=own)
        odd = client.chat.completions.with_raw_response.create(
            model="ok", messages=MESSAGES, extra_headers={"X-Request-ID": "'; drop table usage --"}
        )
    made = [raw.headers["x-request-id"], odd.headers["x-request-id"]]
    assert all(re.fullmatch("req_[0-9a-f]{24}", name) for name in made)
    assert (raw.headers["x-penstock-cache"], raw.headers["x-penstock-attempts"]) == ("bypass", "1")
    gateway.drained()
    assert [len(gateway.rows(f"request_id = '{name}'")) for name in (*made, "the-same-id-twice")] == [1, 1, 2]
