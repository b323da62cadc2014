"""The OpenAI dialect: OpenAI, Azure OpenAI's v1 endpoint, vLLM, TGI, Ollama and everything else that speaks it.

Bytes pass through untouched wherever they can: of a request only the model's name, the stream options and, for callers
whose money is limited, the bound on the answer are set; an answer is never changed.
"""

from __future__ import annotations

from contextlib import closing
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
from app.providers.reported_usage import WireUsage, to_usage
from app.providers.upstream_errors import error_from_response, error_from_status


class _Completion(msgspec.Struct, frozen=True):
    choices: list[msgspec.Raw]
    usage: WireUsage | None = None
    service_tier: str | None = None


class _Choices(msgspec.Struct, frozen=True):
    choices: list[msgspec.Raw]


class _Embeddings(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    usage: WireUsage | None = None


_MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_choices = msgspec.json.Decoder(_Choices).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


class OpenAIProvider:
    """Provider behind one OpenAI-shaped base URL. See `providers.base.Provider`."""

    def __init__(
        self, *, name: str, config: ProviderConfig, timeouts: Timeouts, heartbeat_s: float, secrets: frozenset[str]
    ) -> None:
        if config.base_url is None:
            raise ConfigError("base_url: expected the URL up to and without /chat/completions")
        self.name = name
        self._heartbeat_s = heartbeat_s
        self._secrets = secrets
        self._pacing = Pacing()
        headers = dict(config.headers)
        if config.api_key and "authorization" not in {header.lower() for header in headers}:
            headers["Authorization"] = f"Bearer {config.api_key}"
        self._client = HttpClient(
            provider=name,
            base_url=config.base_url,
            headers=headers,
            timeouts=timeouts,
            max_connections=config.max_connections,
            max_idle=config.max_idle_connections,
            ca_file=config.ca_file,
            kind=config.kind,
            query=config.query,
        )
        self._max_tokens_field = config.max_tokens_field or _max_tokens_field(config.base_url)

    def chat(self, call: ChatCall) -> ProviderResponse:
        with closing(self._post("/chat/completions", self._body(call, {}), call)) as exchange:
            body = exchange.read_all()
        try:
            answer = _decode_completion(body)
        except msgspec.ValidationError:
            answer = self._decode_without_usage(body)
        except (ValueError, RecursionError):
            self._raise_bad_body()
        if answer.usage is None:
            return ProviderResponse(body, None, _count_text_bytes(body))
        return ProviderResponse(body, to_usage(answer.usage, answer.service_tier))

    def stream(self, call: ChatCall) -> OpenAIStream:
        # Always asks for usage: the ledger needs it, whether the client wants to see it or not.
        options = {} if call.request.include_usage else {"stream_options": _stream_options(call.request.fields)}
        exchange = self._post("/chat/completions", self._body(call, options), call)
        try:
            if not exchange.header("content-type").lower().startswith("text/event-stream"):
                self._raise_bad_body()
            stream = OpenAIStream(
                exchange,
                provider=self.name,
                include_usage=call.request.include_usage,
                heartbeat_s=self._heartbeat_s,
                timeouts=self._client.timeouts,
                pacing=self._pacing,
            )
            stream.wait_for_first_chunk()
        except BaseException:
            exchange.close()
            raise
        return stream

    def embed(self, call: EmbedCall) -> ProviderResponse:
        request = call.request
        body = encode_fields(request.fields, {} if request.model == call.model else {"model": call.model})
        with closing(self._post("/embeddings", body, call)) as exchange:
            answer = exchange.read_all()
        try:
            usage = _decode_embeddings(answer).usage
        except (ValueError, RecursionError):
            self._raise_bad_body()
        return ProviderResponse(answer, to_usage(usage) if usage is not None else None)

    def check(self, timeout_s: float) -> None:
        status = self._client.get_status("/models", timeout_s=timeout_s)
        # Not every provider lists its models. Any status but a redirect or a failure shows that a server answers at
        # this URL, and did not mind the key.
        if status in (401, 403) or 300 <= status < 400 or (status >= 500 and status != 501):
            raise error_from_status(status, provider=self.name)

    def _body(self, call: ChatCall, changes: dict[str, Any]) -> bytes:
        """Returns the request's body as it is sent: its bytes, with `changes`, the model and the bound on tokens."""
        request = call.request
        if request.model != call.model:
            changes["model"] = call.model
        if call.max_output_tokens is None:
            return encode_fields(request.fields, changes)
        # Both bounds at once are refused by some providers, and some know only one of them.
        changes[self._max_tokens_field] = call.max_output_tokens
        return encode_fields(request.fields, changes, drop=_MAX_TOKENS_FIELDS)

    def stats(self) -> dict[str, Any]:
        return self._client.stats()

    def _post(self, path: str, body: bytes, call: ChatCall | EmbedCall) -> Exchange:
        exchange = self._client.post(path, body, deadline=call.deadline, cancel=call.cancel, model=call.model)
        if exchange.status != 200:
            with closing(exchange):
                raise error_from_response(self.name, exchange, self._secrets)
        return exchange

    def _decode_without_usage(self, body: bytes) -> _Completion:
        """Decodes a completion whose usage has another shape: it is still an answer, and was paid for."""
        try:
            return _Completion(choices=_decode_choices(body).choices)
        except msgspec.ValidationError:
            self._raise_bad_body()

    def _raise_bad_body(self) -> NoReturn:
        raise UpstreamError(
            f"The provider {self.name} sent no valid answer.", provider=self.name, kind="bad_body", billable=True
        )


def _stream_options(fields: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """Returns the request's stream options, with usage asked for."""
    options = msgspec.json.decode(fields.get("stream_options", msgspec.Raw(b"null")))
    return {**(options or {}), "include_usage": True}


def _max_tokens_field(base_url: str) -> str:
    """Returns the field that bounds an answer: OpenAI's newer models take only `max_completion_tokens`, while most
    other servers of its dialect know `max_tokens`."""
    host = urlsplit(base_url).hostname or ""
    is_openai = host.endswith((".openai.com", ".openai.azure.com", ".services.ai.azure.com"))
    return "max_completion_tokens" if is_openai else "max_tokens"


def _count_text_bytes(body: bytes) -> int:
    """Returns the length of the generated text and tool arguments of a completion without usage."""
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
