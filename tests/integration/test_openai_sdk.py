"""The official SDK, unmodified, against a real gunicorn: what works with OpenAI works here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed
from tests.support.upstream import Upstream

MESSAGES = [{"role": "user", "content": "Hello"}]
MODELS = (
    "ok", "stream-5-60", "tools", "echo", "cut-3", "silent", "status-400", "status-401", "status-404", "status-500",
    "status-503", "flaky-1-sdk", "text-embedding-up", "usage-10-5",
)  # fmt: skip
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
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[:5])]
    assert min(gaps) > 0.02, gaps


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
    assert {model.id for model in client.models.list()} == {*MODELS, "refused"}
    assert client.models.retrieve("ok").owned_by == "penstock"
    with sdk(gateway, gateway.create_key(models=["ok"])) as restricted:
        assert [model.id for model in restricted.models.list()] == ["ok"]
        with pytest.raises(openai.NotFoundError) as error:
            restricted.models.retrieve("echo")
        assert error.value.code == "MODEL_NOT_FOUND"


def test_tools_and_unknown_fields_pass_through(client: OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    answer = client.chat.completions.create(model="tools", messages=MESSAGES, tools=[tool])
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Ulm"}')
    sent = client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=[tool], extra_body={"brand_new": {"x": 1.50}}
    )
    assert '"brand_new":{"x":1.5}' in sent.choices[0].message.content.replace(" ", "")


def test_each_error_is_the_class_that_clients_expect(gateway: Gateway) -> None:
    def failing(model: str = "ok", key: str = DEV_KEY, **more: object) -> openai.APIStatusError:
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


def test_the_sdks_own_retries_behave(gateway: Gateway, upstream: Upstream) -> None:
    with sdk(gateway, retries=2) as client:
        assert client.chat.completions.create(model="flaky-1-sdk", messages=MESSAGES).choices, "500, then retried"
    assert upstream.served()["by_model"]["flaky-1-sdk"] == 2

    budget = gateway.create_key(plan="cents")
    started = time.monotonic()
    with sdk(gateway, budget, retries=2) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="ok", messages=MESSAGES)
    assert time.monotonic() - started < 0.4, "x-should-retry: false is obeyed: no back-off"

    busy = gateway.create_key(plan="two")
    with sdk(gateway, busy, retries=3) as client:
        stream = client.chat.completions.create(model="stream-5-60", messages=MESSAGES, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError):
            client.with_options(max_retries=0).chat.completions.create(model="ok", messages=MESSAGES)
        list(stream)
        assert client.chat.completions.create(model="ok", messages=MESSAGES).choices, "the slot is free at [DONE]"
