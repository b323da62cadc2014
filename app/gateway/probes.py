"""Probes of targets: a small call to each, and calls that show what its model can do.

They go to the providers directly: no key pays for them, no limit holds for them, and the ledger does not have them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal
from uuid import uuid4

import gevent
import msgspec

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.usage import Usage
from app.errors import GatewayError, InvalidRequest, UpstreamError
from app.gateway.pricing import Pricing
from app.gateway.routes import Target
from app.providers.base import ChatCall, EmbedCall, ProviderResponse

# Enough for a model that thinks before it says a word.
_MAX_OUTPUT_TOKENS = 1024
_RED_SQUARE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAJ0lEQVR42u3NsQkAAAjAsP7/tF7hIASyp6lTCQQCgUAgEA"
    "gEgi/BAjLD/C5w/SM9AAAAAElFTkSuQmCC"
)
_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_FUNCTION = {"name": "get_weather", "description": "The weather in a city.", "parameters": _CITY}
Works = Literal["yes", "no", "failed"]


def _ask(question: Any, **more: Any) -> dict[str, Any]:
    return {"model": "probe", "messages": [{"role": "user", "content": question}], **more}


_HELLO = _ask("Reply with the single word OK.")
# What works, and the call that shows it; a stream is shown by reading one to its end.
FEATURES: dict[str, dict[str, Any]] = {
    "stream": {**_HELLO, "stream": True},
    "tools": _ask("What is the weather in Paris?", tools=[{"type": "function", "function": _FUNCTION}]),
    "json_schema": _ask(
        "Name the capital of France.",
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": _CITY}},
    ),
    "images": _ask(
        [
            {"type": "text", "text": "Which colour is this? One word."},
            {"type": "image_url", "image_url": {"url": _RED_SQUARE}},
        ]
    ),
    "thinking": _ask("Is 91 a prime number? Answer yes or no.", reasoning_effort="low"),
}


class Probe(msgspec.Struct, kw_only=True):
    """The outcome for one target. Mutable while it runs. `cost_nanousd` is None where price or usage are unknown."""

    target: str
    reachable: bool = False
    latency_s: float = 0.0
    errors: list[str] = msgspec.field(default_factory=list)
    works: dict[str, Works] = msgspec.field(default_factory=dict)
    cost_nanousd: int | None = 0


class Prober:
    """Probes targets. No call takes longer than `timeout_s`, and those of one target run side by side."""

    def __init__(self, *, pricing: Pricing, timeout_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pricing = pricing
        self._timeout_s = timeout_s
        self._monotonic = monotonic

    def embedding(self, target: Target) -> Probe:
        """Returns the outcome of one embedding."""
        probe = Probe(target=target.name)
        request = EmbedRequest.parse(json.dumps({"model": "probe", "input": "OK"}).encode())
        deadline = self._monotonic() + self._timeout_s
        call = EmbedCall(request=request, model=target.model, request_id=_id(), deadline=deadline)
        self._first(probe, target, lambda: target.provider.embed(call))
        return probe

    def chat(self, target: Target, features: Mapping[str, dict[str, Any]]) -> Probe:
        """Returns the outcome of a small call, and if it succeeds which of the features work."""
        probe = Probe(target=target.name)
        self._first(probe, target, lambda: target.provider.chat(self._call(target, _HELLO)))
        if probe.reachable:
            jobs = {name: gevent.spawn(self._works, probe, target, name, body) for name, body in features.items()}
            gevent.joinall(list(jobs.values()))
            probe.works = {name: job.get() for name, job in jobs.items()}
        return probe

    def _first(self, probe: Probe, target: Target, make: Callable[[], ProviderResponse]) -> None:
        started = self._monotonic()
        try:
            answer = make()
        except GatewayError as exc:
            kind = exc.kind if isinstance(exc, UpstreamError) else exc.code
            probe.errors.append(f"{kind}: {exc.message}")
            return
        finally:
            probe.latency_s = self._monotonic() - started
        probe.reachable = True
        self._add_cost(probe, target, answer.usage)

    def _works(self, probe: Probe, target: Target, name: str, body: dict[str, Any]) -> Works:
        """Returns whether the call succeeded and its answer shows the feature. A refusal of the call is a no."""
        call = self._call(target, body)
        try:
            if name == "stream":
                return "yes" if self._stream(probe, target, call) else "no"
            answer = target.provider.chat(call)
            self._add_cost(probe, target, answer.usage)
            return "yes" if _shows(name, answer) else "no"
        except GatewayError as exc:
            refused = isinstance(exc, InvalidRequest) or getattr(exc, "kind", "") in ("rejected", "not_found")
            probe.errors.append(f"{name}: {exc.message}")
            return "no" if refused else "failed"

    def _stream(self, probe: Probe, target: Target, call: ChatCall) -> bool:
        stream = target.provider.stream(call)
        try:
            for _ in stream:
                pass
        finally:
            stream.close()
        self._add_cost(probe, target, stream.usage)
        return stream.complete

    def _call(self, target: Target, body: dict[str, Any]) -> ChatCall:
        return ChatCall(
            request=ChatRequest.parse(json.dumps(body).encode()),
            model=target.model,
            request_id=_id(),
            deadline=self._monotonic() + self._timeout_s,
            call_id=_id(),
            wires=target.wires,
            drop=target.drop,
            max_output_tokens=_MAX_OUTPUT_TOKENS,
            model_max_output_tokens=target.max_output_tokens,
        )

    def _add_cost(self, probe: Probe, target: Target, usage: Usage | None) -> None:
        card = self._pricing.rate_card(target.provider.name, target.model, usage.service_tier if usage else "")
        if usage is None or card is None or probe.cost_nanousd is None:
            probe.cost_nanousd = None
        else:
            probe.cost_nanousd += card.cost_nanousd(usage)


def _shows(name: str, answer: ProviderResponse) -> bool:
    """Returns whether an answer has what the feature's call asked for."""
    try:
        message = json.loads(answer.body)["choices"][0]["message"]
        content = message.get("content") or ""
        if name == "tools":
            return bool(message["tool_calls"][0]["function"]["name"])
        if name == "json_schema":
            return isinstance(json.loads(content)["city"], str)
        if name == "thinking":
            thought = answer.usage.reasoning_tokens if answer.usage is not None else 0
            return bool(thought or message.get("reasoning_content") or message.get("thinking_blocks"))
        return bool(content)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _id() -> str:
    return f"probe_{uuid4().hex[:16]}"
