"""The OpenAI dialect: OpenAI, Azure OpenAI's v1 endpoint, vLLM, TGI, Ollama and everything else that speaks it.

Bytes pass through untouched wherever they can: of a request only the model's name, the stream options and, for callers
whose money is limited, the bound on the answer are set; an answer is never changed.
"""

from __future__ import annotations

from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec

from app.config.gateway import ProviderConfig, Timeouts
from app.domain.body import encode_fields
from app.errors import ConfigError, UpstreamError
from app.providers.base import ChatCall, EmbedCall, ProviderResponse
from app.providers.event_stream import OpenAIStream
from app.providers.http.client import HttpClient
from app.providers.http.exchange import Exchange
from app.providers.pacing import Pacing
from app.providers.reported_usage import WireUsage, usage_of
from app.providers.upstream_errors import error_from_response, error_from_status


class _Completion(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: WireUsage | None = None
    service_tier: str | None = None


class _Choices(msgspec.Struct):
    choices: list[msgspec.Raw]


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw]
    usage: WireUsage | None = None


_BOUND_FIELDS = ("max_tokens", "max_completion_tokens")
_completion = msgspec.json.Decoder(_Completion)
_choices = msgspec.json.Decoder(_Choices)
_embeddings = msgspec.json.Decoder(_Embeddings)


class OpenAIProvider:
    """One OpenAI-shaped base URL. See `providers.base.Provider`."""

    def __init__(
        self, *, name: str, config: ProviderConfig, timeouts: Timeouts, heartbeat_s: float, secrets: frozenset[str]
    ) -> None:
        if config.base_url is None:
            raise ConfigError("base_url: expected the URL up to and without /chat/completions")
        self.name = name
        self._heartbeat_s = heartbeat_s
        self._secrets = secrets
        self._pace = Pacing()
        headers = dict(config.headers)
        if config.api_key and "authorization" not in {header.lower() for header in headers}:
            headers["Authorization"] = f"Bearer {config.api_key}"
        self._transport = HttpClient(
            provider=name,
            base_url=config.base_url,
            headers=headers,
            timeouts=timeouts,
            max_connections=config.max_connections,
            max_idle=config.max_idle_connections,
            ca_file=config.ca_file,
        )
        self._bound_field = config.max_tokens_field or _bound_field(config.base_url)

    def chat(self, call: ChatCall) -> ProviderResponse:
        with _Closing(self._post("/chat/completions", self._body(call, {}), call)) as exchange:
            body = exchange.read_all()
        try:
            answer = _completion.decode(body)
        except msgspec.ValidationError:
            answer = self._without_usage(body)
        except (ValueError, RecursionError):
            self._bad_body()
        if answer.usage is None:
            return ProviderResponse(body, None, _text_bytes(body))
        return ProviderResponse(body, usage_of(answer.usage, answer.service_tier))

    def stream(self, call: ChatCall) -> OpenAIStream:
        # Always asks for usage: the ledger needs it, whether the client wants to see it or not.
        options = {} if call.request.include_usage else {"stream_options": _with_usage(call.request.fields)}
        exchange = self._post("/chat/completions", self._body(call, options), call)
        try:
            if not exchange.header("content-type").lower().startswith("text/event-stream"):
                self._bad_body()
            stream = OpenAIStream(
                exchange,
                provider=self.name,
                include_usage=call.request.include_usage,
                heartbeat_s=self._heartbeat_s,
                timeouts=self._transport.timeouts,
                pace=self._pace,
            )
            stream.await_first()
        except BaseException:
            exchange.close()
            raise
        return stream

    def embed(self, call: EmbedCall) -> ProviderResponse:
        request = call.request
        body = encode_fields(request.fields, {} if request.model == call.model else {"model": call.model})
        with _Closing(self._post("/embeddings", body, call)) as exchange:
            answer = exchange.read_all()
        try:
            usage = _embeddings.decode(answer).usage
        except (ValueError, RecursionError):
            self._bad_body()
        return ProviderResponse(answer, usage_of(usage) if usage is not None else None)

    def check(self, timeout_s: float) -> None:
        status = self._transport.get_status("/models", timeout_s=timeout_s)
        # Not everybody has the list. What is no redirect and no failure shows that somebody answers for this URL, and
        # did not mind the key.
        if status in (401, 403) or 300 <= status < 400 or (status >= 500 and status != 501):
            raise error_from_status(status, provider=self.name)

    def _body(self, call: ChatCall, changes: dict[str, Any]) -> bytes:
        """The request's body as it goes out: its bytes, with `changes` and what this attempt is about."""
        request = call.request
        if request.model != call.model:
            changes["model"] = call.model
        if call.max_output_tokens is None:
            return encode_fields(request.fields, changes)
        # Both bounds at once are refused by some providers, and some know only one of them.
        changes[self._bound_field] = call.max_output_tokens
        return encode_fields(request.fields, changes, drop=_BOUND_FIELDS)

    def stats(self) -> dict[str, Any]:
        return self._transport.stats()

    def _post(self, path: str, body: bytes, call: ChatCall | EmbedCall) -> Exchange:
        exchange = self._transport.post(path, body, deadline=call.deadline, cancel=call.cancel)
        if exchange.status != 200:
            with _Closing(exchange):
                raise error_from_response(self.name, exchange, self._secrets)
        return exchange

    def _without_usage(self, body: bytes) -> _Completion:
        """An answer whose usage says nothing that we understand is still an answer, and was paid for."""
        try:
            return _Completion(choices=_choices.decode(body).choices)
        except msgspec.ValidationError:
            self._bad_body()

    def _bad_body(self) -> NoReturn:
        raise UpstreamError(
            f"The provider {self.name} sent no valid answer.", provider=self.name, kind="bad_body", billable=True
        )


class _Closing:
    """Leaves the exchange closed, unless its body was read to the end (then it is back in the pool)."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> Exchange:
        return self._exchange

    def __exit__(self, *_: object) -> None:
        self._exchange.close()


def _with_usage(fields: dict[str, msgspec.Raw]) -> dict[str, Any]:
    given = msgspec.json.decode(fields.get("stream_options", msgspec.Raw(b"null")))
    return {**(given or {}), "include_usage": True}


def _bound_field(base_url: str) -> str:
    """OpenAI's newer models take only `max_completion_tokens`; most others who speak its dialect know `max_tokens`."""
    host = urlsplit(base_url).hostname or ""
    ours = host.endswith((".openai.com", ".openai.azure.com", ".services.ai.azure.com"))
    return "max_completion_tokens" if ours else "max_tokens"


def _text_bytes(body: bytes) -> int:
    """Length of the generated text and tool arguments of a completion without usage."""
    size = 0
    for choice in msgspec.json.decode(body)["choices"]:
        message: Any = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        texts = [message.get(name) for name in ("content", "reasoning_content", "refusal")]
        for tool_call in message.get("tool_calls") or ():
            function = tool_call.get("function") if isinstance(tool_call, dict) else None
            texts.append(function.get("arguments") if isinstance(function, dict) else None)
        size += sum(len(str(text).encode("utf-8", "surrogatepass")) for text in texts if text)
    return size
