"""The pipeline on a real Redis, with a scripted vendor and one clock that only the test moves."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.identity import Caller
from app.domain.usage import Usage
from app.errors import GatewayError
from app.gateway.accounting import Accounting
from app.gateway.admission import Admission
from app.gateway.cache import Cache
from app.gateway.call import CallContext
from app.gateway.callers import Callers
from app.gateway.heartbeat import Heartbeat
from app.gateway.pipeline import Pipeline
from app.gateway.pricing import Pricing
from app.gateway.reaper import Reaper
from app.gateway.router import Router
from app.providers.base import ChatCall, EmbedCall, MediaCall, MediaResponse, ProviderResponse
from app.providers.dialects import decode_request
from app.store.keys import Keys
from app.store.redis.client import Redis
from app.store.spool import Spool
from app.telemetry.metrics import Metrics
from tests.support.aging import let_pass

CALLER = Caller("key_1", "test", plan="default", tenant="acme")
# Dollars per million tokens: 1,000 and 2,000 nano-dollars a token, and so on.
PRICES: dict[str, dict[str, Any]] = {
    "up": {"*": {"prompt": 1, "completion": 2, "cached": "0.25", "reasoning": 3}},
    "dear": {"*": {"prompt": 5, "completion": 50}},
}
MODELS = {
    "m": {"targets": [{"provider": "up", "model": "up-1"}], "max_output_tokens": 1000},
    "safe": {"targets": [{"provider": "up"}], "fallbacks": ["dear"], "max_output_tokens": 100},
    "unknown": {"targets": [{"provider": "nobody"}]},
    "half-known": {"targets": [{"provider": "up"}], "fallbacks": ["nobody"]},
}
PLANS = {
    "default": {"tokens_per_day": 100_000, "requests_per_day": 1000, "concurrency": 5},
    "poor": {"budget_usd_per_month": 1, "tokens_per_day": 100_000},
}
POOR = Caller("key_1", "test", plan="poor")
CONFIG = {
    "providers": {
        "up": {"kind": "demo"},
        "dear": {"kind": "demo"},
        "nobody": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"},
    },
    "models": MODELS,
    "plans": PLANS,
    "retry": {"max_attempts": 2, "backoff_s": 0.5},
    "reserve": {"completion_tokens": 512},
    "cache": {"ttl_s": 60},
    "timeouts": {"total_s": 30},
}


BOOTED_S = 5_000.0  # what the monotonic clock says at first: a latency that adds it up instead of taking it off shows


class Clock:
    """Wall clock and monotonic clock in one step."""

    def __init__(self, wall: float) -> None:
        self._wall = wall
        self._passed_s = 0.0

    def step(self, seconds: float) -> None:
        self._passed_s += seconds

    def wall(self) -> float:
        return self._wall + self._passed_s

    def monotonic(self) -> float:
        return BOOTED_S + self._passed_s


class FakeAnswerStream:
    """An `ProviderStream` of these blocks; the clock moves before each one but the first, and before the end, which
    `fails` may take the place of."""

    def __init__(
        self, clock: Clock, blocks: list[bytes], usage: Usage | None, pause_s: float, fails: BaseException | None
    ) -> None:
        self.usage: Usage | None = None
        self.prompt_usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.complete = False
        self.ending = b"data: [DONE]\n\n"
        self.heartbeat = b": keep-alive\n\n"
        self.dropped: tuple[str, ...] = ()
        self.closed = 0
        self._clock, self._blocks, self._usage, self._pause_s, self._fails = clock, blocks, usage, pause_s, fails

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.chunks += 1
            self.text_bytes += len(block)
            yield block
            self._clock.step(self._pause_s)
        if self._fails is not None:
            raise self._fails
        self.usage = self._usage
        self.complete = True

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


class FakeProvider:
    """A provider that takes `takes_s`, lets the test look at what is open meanwhile, and answers as told."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.takes_s = 0.0
        self.usage: Usage | None = Usage(10, 20)
        self.text_bytes = 0
        self.body = b'{"id":"1","choices":[]}'
        self.blocks: list[bytes] = [b'data: {"choices":[]}\n\n']
        self.pause_s = 0.0
        self.fails: list[BaseException] = []
        self.breaks_off: BaseException | None = None  # after the last block of a stream
        self.meanwhile: Callable[[], object] = lambda: None
        self.calls: list[ChatCall | EmbedCall] = []
        self.streams: list[FakeAnswerStream] = []

    def chat(self, call: ChatCall) -> ProviderResponse:
        self._begin(call)
        return ProviderResponse(self.body, self.usage, self.text_bytes)

    def media(self, call: MediaCall) -> MediaResponse:
        raise NotImplementedError

    def embed(self, call: EmbedCall) -> ProviderResponse:
        self._begin(call)
        return ProviderResponse(self.body, self.usage)

    def stream(self, call: ChatCall) -> FakeAnswerStream:
        self._begin(call)
        self.streams.append(FakeAnswerStream(self.clock, self.blocks, self.usage, self.pause_s, self.breaks_off))
        return self.streams[-1]

    def count_tokens(self, call: ChatCall) -> None:
        return None

    def check(self, timeout_s: float) -> None:
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        return {}

    def _begin(self, call: ChatCall | EmbedCall) -> None:
        self.calls.append(call)
        self.clock.step(self.takes_s)
        self.meanwhile()
        if self.fails:
            raise self.fails.pop(0)


class NoKeys(Keys):
    """A key store without a database that knows no key."""

    def __init__(self) -> None:
        pass

    def authenticate(self, key_hash: str) -> Caller | None:
        return None


class PipelineHarness:
    """The pipeline with its parts, without HTTP."""

    def __init__(self, redis: Redis, directory: Path) -> None:
        self.redis = redis
        # Redis keeps its own time for deadlines: ours starts there.
        self.clock = clock = Clock(float(redis.execute("TIME")[0]))
        self.config = GatewayConfig.model_validate(CONFIG)
        self.vendors = {name: FakeProvider(name, clock) for name in self.config.providers}
        self.metrics = Metrics(config=self.config)
        self.heartbeat = Heartbeat(redis=redis, timeout_s=3 * 3600)  # beats once
        self.admission = Admission(
            redis=redis,
            callers=Callers(keys=NoKeys()),
            plans=self.config.plans,
            heartbeat=self.heartbeat,
            spool=Spool(directory / "spool", name="test", retry_s=0.01),
            clock=clock.wall,
        )
        router = Router(
            config=self.config, providers=self.vendors, metrics=self.metrics, clock=clock.monotonic, pause=clock.step
        )
        overrides = {
            provider: {model: PriceOverride.model_validate(price) for model, price in models.items()}
            for provider, models in PRICES.items()
        }
        pricing = Pricing(config=self.config, overrides=overrides, clock=clock.wall)
        self.pipeline = Pipeline(
            config=self.config,
            admission=self.admission,
            router=router,
            pricing=pricing,
            metrics=self.metrics,
            decode=decode_request,
            cache=Cache(redis=redis, config=self.config.cache, monotonic=clock.monotonic, pause=clock.step),
            accounting=Accounting(
                admission=self.admission, pricing=pricing, metrics=self.metrics, clock=clock.monotonic
            ),
            clock=clock.wall,
            monotonic=clock.monotonic,
        )
        self._ids = itertools.count(1)

    def close(self) -> None:
        self.heartbeat.stop()

    def context(self, **more: Any) -> CallContext:
        number = next(self._ids)
        return CallContext(f"req_{number}", f"call_{number}", **more)

    def rows(self) -> list[dict[str, Any]]:
        entries = self.redis.execute("XRANGE", "penstock:outbox", "-", "+")
        return [json.loads(fields[fields.index(b"row") + 1]) for _, fields in entries]

    def counted(self, limit: str, key_id: str = "key_1") -> int:
        """Returns a window's counter; 0 when there is none."""
        keys = self.redis.execute("KEYS", f"penstock:limit:{key_id}:{limit}*")
        return sum(int(self.redis.execute("GET", key)) for key in keys)

    def keys_like(self, pattern: str) -> list[bytes]:
        found: list[bytes] = self.redis.execute("KEYS", pattern)
        return found

    def lose(self, after_s: float = 3600.0) -> int:
        """The ledger process finds every open call lost."""
        let_pass(self.redis, after_s)
        return Reaper(redis=self.redis, timeout_s=1).run_once()

    def metric(self, name: str, **labels: str) -> float:
        """One sample of `/metrics`; 0 when it is not there."""
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        for line in self.metrics.render({}).decode().splitlines():
            series, _, value = line.rpartition(" ")
            found, _, rest = series.partition("{")
            if found == name and wanted <= set(rest.rstrip("}").split(",")):
                return float(value)
        return 0.0


def chat(model: str = "m", text: str = "Hello there", **fields: Any) -> ChatRequest:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return ChatRequest.parse(json.dumps(body).encode())


def embeddings(model: str = "m", text: str = "Hello there", **fields: Any) -> EmbedRequest:
    return EmbedRequest.parse(json.dumps({"model": model, "input": text, **fields}).encode())
