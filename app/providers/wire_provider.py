"""Wire provider: a vendor's API behind one base URL, in whichever of its dialects a call needs.

Bytes pass through untouched wherever they can. Where the caller speaks a dialect of the vendor's, of a request only the
model's name, the stream options and, for callers whose money is limited, the bound on the answer are set, and an answer
is never changed. Everybody else's calls are translated, by way of `domain.content`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec

from app.config.gateway import ProviderConfig, Timeouts
from app.domain.body import encode, encode_fields
from app.domain.generation import DialectName
from app.errors import ConfigError, Untranslatable, UpstreamError
from app.providers.base import ChatCall, EmbedCall, MediaCall, MediaResponse, ProviderResponse
from app.providers.dialects import DIALECTS
from app.providers.dialects.chat.usage import WireUsage, to_usage
from app.providers.dialects.dialect import Dialect, Outgoing
from app.providers.event_stream import EventStream
from app.providers.framing import framing_of
from app.providers.http.client import HttpClient
from app.providers.http.exchange import Exchange
from app.providers.media_response import media_response
from app.providers.pacing import Pacing
from app.providers.stream_events import PassedEvents, TranslatedEvents
from app.providers.upstream_errors import error_from_response, error_from_status

T = TypeVar("T")


class Kind(NamedTuple):
    """A kind of vendor. `wires` are its dialects, the one that all of its models speak first."""

    wires: tuple[DialectName, ...]
    key_header: str = "Authorization"
    key_prefix: str = ""
    headers: tuple[tuple[str, str], ...] = ()


WIRE_KINDS = {
    "openai": Kind(("chat", "responses"), key_prefix="Bearer "),
    "anthropic": Kind(("messages",), "x-api-key", headers=(("anthropic-version", "2023-06-01"),)),
    "gemini": Kind(("gemini",), "x-goog-api-key"),
}


class _Embeddings(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    usage: WireUsage | None = None


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


class WireProvider:
    """Provider of one configured vendor. See `providers.base.Provider`."""

    def __init__(
        self, *, name: str, config: ProviderConfig, timeouts: Timeouts, heartbeat_s: float, secrets: frozenset[str]
    ) -> None:
        kind = WIRE_KINDS[config.kind]
        base_url = config.base_url
        if base_url is None:
            raise ConfigError("base_url: expected the URL up to and without /chat/completions")
        self.name = name
        self._wires = kind.wires
        self._heartbeat_s = heartbeat_s
        self._secrets = secrets
        self._pacing = Pacing()
        self._client = HttpClient(
            provider=name,
            base_url=base_url,
            headers=_headers(kind, config),
            timeouts=timeouts,
            max_connections=config.max_connections,
            max_idle=config.max_idle_connections,
            ca_file=config.ca_file,
            kind=config.kind,
            query=config.query,
        )
        self._max_tokens_field = config.max_tokens_field or _max_tokens_field(base_url)

    def chat(self, call: ChatCall) -> ProviderResponse:
        caller, vendor = DIALECTS[call.request.dialect], self._wire(call)
        outgoing = self._outgoing(call)
        if caller is vendor:
            body = vendor.pass_request(call.request, outgoing)
            with closing(self._post(vendor, body, call)) as exchange:
                answer = exchange.read_all()
            reported = self._read(vendor.read_answer, answer)
            return ProviderResponse(answer, reported.usage, reported.text_bytes, tuple(outgoing.dropped))
        prompt = caller.decode_request(call.request)
        body = encode(vendor.encode_request(prompt, outgoing))
        with closing(self._post(vendor, body, call)) as exchange:
            raw = exchange.read_all()
        translated = self._read(lambda body: vendor.decode_answer(body, self.name), raw)
        answer = caller.encode_answer(translated, framing_of(call, prompt))
        text_bytes = 0 if translated.usage is not None else self._read(vendor.read_answer, raw).text_bytes
        return ProviderResponse(answer, translated.usage, text_bytes, tuple(outgoing.dropped))

    def stream(self, call: ChatCall) -> EventStream:
        caller, vendor = DIALECTS[call.request.dialect], self._wire(call)
        outgoing = self._outgoing(call)
        events: PassedEvents | TranslatedEvents
        if caller is vendor:
            body = vendor.pass_request(call.request, outgoing)
            events = PassedEvents(vendor, vendor.watch(call.request))
        else:
            prompt = caller.decode_request(call.request)
            body = encode(vendor.encode_request(prompt, outgoing))
            encoder = caller.stream_encoder(framing_of(call, prompt))
            events = TranslatedEvents(caller, vendor.stream_decoder(self.name), encoder)
        exchange = self._post(vendor, body, call)
        try:
            if not exchange.header("content-type").lower().startswith("text/event-stream"):
                self._raise_bad_body()
            stream = EventStream(
                exchange,
                provider=self.name,
                dialect=vendor.name,
                events=events,
                heartbeat_s=self._heartbeat_s,
                timeouts=self._client.timeouts,
                pacing=self._pacing,
                dropped=tuple(outgoing.dropped),
            )
            stream.wait_for_first_chunk()
        except BaseException:
            exchange.close()
            raise
        return stream

    def embed(self, call: EmbedCall) -> ProviderResponse:
        request = call.request
        body = encode_fields(request.fields, {} if request.model == call.model else {"model": call.model})
        exchange = self._client.post("/embeddings", body, deadline=call.deadline, cancel=call.cancel, model=call.model)
        with closing(self._accepted(exchange, "chat")):
            answer = exchange.read_all()
        usage = self._read(_decode_embeddings, answer).usage
        return ProviderResponse(answer, to_usage(usage) if usage is not None else None)

    def media(self, call: MediaCall) -> MediaResponse:
        if "chat" not in self._wires:
            raise Untranslatable(f"The provider {self.name} has no endpoint {call.request.path}.", param="model")
        body, content_type = call.request.encode(call.model)
        exchange = self._client.post(
            call.request.path,
            body,
            deadline=call.deadline,
            cancel=call.cancel,
            model=call.model,
            content_type=content_type,
        )
        return media_response(
            self._accepted(exchange, "chat"),
            call.request,
            provider=self.name,
            timeouts=self._client.timeouts,
            heartbeat_s=self._heartbeat_s,
        )

    def check(self, timeout_s: float) -> None:
        status = self._client.get_status("/models", timeout_s=timeout_s)
        # Not every provider lists its models. Any status but a redirect or a failure shows that a server answers at
        # this URL, and did not mind the key.
        if status in (401, 403) or 300 <= status < 400 or (status >= 500 and status != 501):
            raise error_from_status(status, provider=self.name)

    def stats(self) -> dict[str, Any]:
        return self._client.stats()

    def _wire(self, call: ChatCall) -> Dialect:
        """Returns the dialect to speak: the caller's if the target has it, and otherwise the one that it prefers."""
        wires = call.wires or self._wires[:1]
        name = call.request.dialect
        return DIALECTS[name if name in wires else wires[0]]

    def _outgoing(self, call: ChatCall) -> Outgoing:
        return Outgoing(
            origin=self.name,
            model=call.model,
            stream=bool(call.request.stream),
            max_output_tokens=call.max_output_tokens,
            model_max_output_tokens=call.model_max_output_tokens,
            max_tokens_field=self._max_tokens_field,
            drop=call.drop,
        )

    def _post(self, wire: Dialect, body: bytes, call: ChatCall) -> Exchange:
        exchange = self._client.post(
            wire.path(call.model, bool(call.request.stream)),
            body,
            deadline=call.deadline,
            cancel=call.cancel,
            model=call.model,
            headers=call.headers if wire.name == call.request.dialect else b"",
        )
        return self._accepted(exchange, wire.name)

    def _accepted(self, exchange: Exchange, dialect: DialectName) -> Exchange:
        """Returns `exchange`. Raises the error that its status stands for."""
        if exchange.status != 200:
            with closing(exchange):
                raise error_from_response(self.name, exchange, self._secrets, dialect)
        return exchange

    def _read(self, decode: Callable[[bytes], T], body: bytes) -> T:
        try:
            return decode(body)
        except (ValueError, RecursionError):
            self._raise_bad_body()

    def _raise_bad_body(self) -> NoReturn:
        raise UpstreamError(
            f"The provider {self.name} sent no valid answer.", provider=self.name, kind="bad_body", billable=True
        )


def _headers(kind: Kind, config: ProviderConfig) -> dict[str, str]:
    """Returns the headers of every call: the kind's, the key, and the configured ones, which replace them."""
    given = {header.lower() for header in config.headers}
    headers = {name: value for name, value in kind.headers if name not in given}
    if config.api_key and kind.key_header.lower() not in given:
        headers[kind.key_header] = f"{kind.key_prefix}{config.api_key}"
    return headers | config.headers


def _max_tokens_field(base_url: str) -> str:
    """Returns the field that bounds an answer: OpenAI's newer models take only `max_completion_tokens`, while most
    other servers of its dialect know `max_tokens`."""
    host = urlsplit(base_url).hostname or ""
    is_openai = host.endswith((".openai.com", ".openai.azure.com", ".services.ai.azure.com"))
    return "max_completion_tokens" if is_openai else "max_tokens"
