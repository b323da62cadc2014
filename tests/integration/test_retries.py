"""The SDK retries what failed, and so does the gateway: a vendor sees the gateway's attempts once, not thrice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.support.client import chat, post
from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed
from tests.support.upstream import Upstream

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
ALONE = ("ok", "status-500", "status-503", "status-401", "status-429", "status-429-20", "garbage", "silent")
CONFIG = """
providers:
  up: {{kind: openai, base_url: {url}}}
  spare: {{kind: openai, base_url: {url}}}
models:
  {models}
  two: {{targets: [{{provider: up, model: status-500-two}}], fallbacks: [{{provider: spare, model: status-503-two}}]}}
timeouts: {{first_byte_s: 0.3}}
retry: {{max_attempts: 3, backoff_s: 0.01, breaker_threshold: 1000}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, vendor: Upstream) -> Iterator[Gateway]:
    flushed(redis_server.url)
    models = "\n  ".join(f"{name}: {{targets: [{{provider: up}}]}}" for name in ALONE)
    directory: Path = tmp_path_factory.mktemp("retries")
    config = CONFIG.format(url=vendor.url, models=models)
    # One worker: each has breakers of its own.
    with Gateway(directory, config, redis_url=redis_server.url, workers=1) as started:
        yield started


@pytest.fixture
def client(gateway: Gateway, upstream: Upstream) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=DEV_KEY, max_retries=2) as made:
        yield made


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "attempts"),
    [("status-500", 3), ("status-503", 3), ("status-429", 3), ("status-401", 1), ("garbage", 1), ("silent", 1)],
)
def test_a_vendor_that_always_fails_sees_our_attempts_once(
    client: OpenAI, upstream: Upstream, model: str, attempts: int, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert upstream.served()["by_model"] == {model: attempts}


def test_a_fallback_that_fails_too_is_not_asked_again_by_the_client(client: OpenAI, upstream: Upstream) -> None:
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="two", messages=MESSAGES)
    assert upstream.served()["by_model"] == {"status-500-two": 1, "status-503-two": 1}


def test_a_vendor_that_says_when_to_come_back_may_be_asked_then(gateway: Gateway, upstream: Upstream) -> None:
    for _ in range(2):
        refused = post(gateway.port, chat("status-429-20"), DEV_KEY)
        assert refused.status == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert "x-should-retry" not in refused.headers
    assert upstream.served()["by_model"] == {"status-429-20": 1}, "and it is left alone until then"
