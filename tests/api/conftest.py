"""The application in this process, on a real Redis: demo providers that record their calls, a clock to step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from app import create_app
from app.gateway.accounting import Accounting
from app.gateway.cache import Cache
from app.gateway.pipeline import Pipeline
from app.gateway.pricing import Pricing
from app.gateway.router import Router
from app.gateway.token_counter import TokenCounter
from app.providers.base import (
    ChatCall,
    EmbedCall,
    MediaCall,
    MediaResponse,
    Provider,
    ProviderResponse,
    ProviderStream,
)
from app.providers.dialects import decode_request
from app.providers.vendor_counts import VendorCount
from app.services import Services, build_responses, build_services
from app.settings import load_settings
from tests.support.response import AppResponse

KEY = "dev-key-for-tests"
PRICES = '{"*": {prompt: 1, completion: 2}}'


@dataclass
class RecordingProvider:
    """A real provider that appends its name to `asked` with each call."""

    provider: Provider
    asked: list[str]
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.provider.name

    def chat(self, call: ChatCall) -> ProviderResponse:
        self.asked.append(self.name)
        return self.provider.chat(call)

    def stream(self, call: ChatCall) -> ProviderStream:
        self.asked.append(self.name)
        return self.provider.stream(call)

    def embed(self, call: EmbedCall) -> ProviderResponse:
        self.asked.append(self.name)
        return self.provider.embed(call)

    def media(self, call: MediaCall) -> MediaResponse:
        self.asked.append(self.name)
        return self.provider.media(call)

    def count_tokens(self, call: ChatCall) -> VendorCount | None:
        return self.provider.count_tokens(call)

    def check(self, timeout_s: float) -> None:
        self.provider.check(timeout_s)

    def stats(self) -> dict[str, Any]:
        return self.provider.stats()


@dataclass
class AppClient:
    """The application in this process, a client of it, and a record of the providers it called."""

    services: Services
    asked: list[str]  # providers, in the order in which they were asked
    pauses: list[float]  # before a target is asked again, in seconds
    clock_offset_s: list[float]  # how far the router's clock was stepped
    key: str = KEY
    _client: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._client = create_app(services=self.services).test_client()

    def chat(
        self, model: str = "m", *, key: str | None = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> AppResponse:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello there"}], **more}
        return self.post(json.dumps(body), key=key, headers=headers)

    def post(
        self,
        body: str | bytes,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/chat/completions",
        content_type: str = "application/json",
    ) -> AppResponse:
        sent = {"Authorization": f"Bearer {key or self.key}", **(headers or {})}
        response: AppResponse = self._client.post(path, data=body, content_type=content_type, headers=sent)
        # Reading it to the end and closing it is what a server does; only then is a stream settled.
        response.get_data()
        response.close()
        return response

    def send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, data: str | bytes = b""
    ) -> AppResponse:
        """As it is, without a key of its own."""
        # Not as the client's `path`, where two slashes would be a host.
        overrides = {"PATH_INFO": unquote(path.partition("?")[0])} if path.startswith("//") else {}
        found: AppResponse = self._client.open(
            path, method=method, headers=headers, data=data, environ_overrides=overrides
        )
        return found

    def options(self, path: str, headers: Mapping[str, str]) -> AppResponse:
        found: AppResponse = self._client.options(path, headers=headers)
        return found

    def get(self, path: str, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> AppResponse:
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        found: AppResponse = self._client.get(path, headers=sent)
        return found

    def head(self, path: str) -> AppResponse:
        found: AppResponse = self._client.head(path)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """The ledger rows so far, oldest first."""
        entries = self.services.redis.execute("XRANGE", "penstock:outbox", "-", "+")
        return [json.loads(fields[fields.index(b"row") + 1]) for _, fields in entries]

    def keys(self, pattern: str) -> list[bytes]:
        found: list[bytes] = self.services.redis.execute("KEYS", pattern)
        return found


@pytest.fixture
def client_with(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., AppClient]]:
    """Builds the application for a gateway.yaml, and a prices.yaml if one is given; otherwise every provider that is
    named costs $1 and $2 a million tokens."""
    opened: list[Services] = []

    def build(config: str, prices: str = "") -> AppClient:
        (tmp_path / "gateway.yaml").write_text(config)
        env = {
            "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
            "DATA_DIR": str(tmp_path),
            "REDIS_URL": redis_url,
            "DEV_API_KEY": KEY,
        }
        names = load_settings(env).config.providers
        (tmp_path / "prices.yaml").write_text(prices or "\n".join(f"{name}: {PRICES}" for name in names))
        services = build_services(load_settings(env))
        opened.append(services)
        made = _with_seams(services)
        services.database.migrate()
        return made

    yield build
    for services in opened:
        services.close()


def _with_seams(services: Services) -> AppClient:
    """The same services; the router's clock, pauses and providers are the test's."""
    asked: list[str] = []
    pauses: list[float] = []
    clock_offset_s = [0.0]
    config = services.settings.config
    router = Router(
        config=config,
        providers={name: RecordingProvider(found, asked) for name, found in services.providers.items()},
        metrics=services.metrics,
        clock=lambda: time.monotonic() + clock_offset_s[0],
        pause=pauses.append,
    )
    pricing = Pricing(config=config, overrides=services.settings.prices)
    pipeline = Pipeline(
        config=config,
        admission=services.admission,
        router=router,
        metrics=services.metrics,
        decode=decode_request,
        pricing=pricing,
        cache=Cache(redis=services.redis, config=config.cache),
        accounting=Accounting(admission=services.admission, pricing=pricing, metrics=services.metrics),
    )
    responses = build_responses(services.settings, pipeline, services.redis)
    counter = TokenCounter(pipeline=pipeline, router=router, admission=services.admission, decode=decode_request)
    services = replace(services, router=router, pipeline=pipeline, responses=responses, token_counter=counter)
    return AppClient(services, asked, pauses, clock_offset_s)
