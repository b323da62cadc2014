"""Wire provider: a vendor's API behind one base URL, in whichever of its dialects a call needs.

Bytes pass through untouched wherever they can. Where the caller speaks a dialect of the vendor's, of a request only the
model's name, the stream options and, for callers whose money is limited, the bound on the answer are set, and an answer
is never changed. Everybody else's calls are translated, by way of `domain.content`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec

from app.config.providers import ProviderConfig, Timeouts
from app.domain.body import encode, encode_fields
from app.domain.content import Event, Prompt
from app.domain.generation import DialectName
from app.errors import ConfigError, InvalidRequest, Untranslatable, UpstreamError
from app.providers.base import ChatCall, EmbedCall, MediaCall, MediaResponse, ProviderResponse
from app.providers.dialects import DIALECTS, decode_request
from app.providers.dialects.custom_tools import UnwrapEvents, unwrap_answer
from app.providers.dialects.dialect import MALFORMED, Dialect, Outgoing
from app.providers.dialects.gemini import embeddings
from app.providers.dialects.openai_usage import WireUsage, to_usage
from app.providers.event_stream import EventStream
from app.providers.framing import framing_of
from app.providers.http.client import HttpClient
from app.providers.http.exchange import Exchange
from app.providers.media_response import media_response
from app.providers.pacing import Pacing
from app.providers.reasoning import NO_MEMORY, ReasoningCollector, ReasoningMemory, recalled
from app.providers.stream_events import PassedEvents, TranslatedEvents
from app.providers.upstream_errors import error_from_response, error_from_status, log_stumble
from app.providers.vendor_counts import COUNT_ENDPOINTS, VendorCount

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
# The vendor has no such endpoint, and is not asked for an hour.
_NO_ENDPOINT = (404, 405, 501)
_ASK_AGAIN_S = 3600.0


class _Embeddings(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    usage: WireUsage | None = None


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


class WireProvider:
    """Provider of one configured vendor. See `providers.base.Provider`."""

    def __init__(
        self,
        *,
        name: str,
        config: ProviderConfig,
        timeouts: Timeouts,
        heartbeat_s: float,
        secrets: frozenset[str],
        memory: ReasoningMemory = NO_MEMORY,
    ) -> None:
        kind = WIRE_KINDS[config.kind]
        base_url = config.base_url
        if base_url is None:
            raise ConfigError("base_url: expected the URL up to and without /chat/completions")
        self.name = name
        self._wires = kind.wires
        self._heartbeat_s = heartbeat_s
        self._secrets = secrets
        self._memory = memory
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
        self._no_counts_until: dict[str, float] = {}  # by model, of those whose vendor has no endpoint for counts
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
        prompt = self._decode(caller, call)
        body = self._encode(vendor, prompt, outgoing)
        with closing(self._post(vendor, body, call)) as exchange:
            raw = exchange.read_all()
        framing = framing_of(call, prompt)
        translated = unwrap_answer(self._read(lambda body: vendor.decode_answer(body, self.name), raw), prompt)
        if caller.name == "chat":
            translated = ReasoningCollector(call.key_id, framing.call_id, self._memory).answer(translated)
        answer = caller.encode_answer(translated, framing)
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
            prompt = self._decode(caller, call)
            body = self._encode(vendor, prompt, outgoing)
            events = self._translated_events(caller, vendor, call, prompt)
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
        if "gemini" in self._wires:
            return self._embed_at_google(call)
        request = call.request
        changes = {} if request.model == call.model else {"model": call.model}
        dropped = tuple(name for name in embeddings.GOOGLE_FIELDS if name in request.fields)
        body = encode_fields(request.fields, changes, drop=dropped)
        exchange = self._client.post("/embeddings", body, deadline=call.deadline, cancel=call.cancel, model=call.model)
        with closing(self._accepted(exchange, "chat")):
            answer = exchange.read_all()
        usage = self._read(_decode_embeddings, answer).usage
        return ProviderResponse(answer, to_usage(usage) if usage is not None else None, dropped=dropped)

    def _embed_at_google(self, call: EmbedCall) -> ProviderResponse:
        body = embeddings.encode_embeddings(call.request, call.model)
        path = embeddings.path(call.model)
        exchange = self._client.post(path, body, deadline=call.deadline, cancel=call.cancel, model=call.model)
        with closing(self._accepted(exchange, "gemini")):
            raw = exchange.read_all()
        answer = self._read(lambda raw: embeddings.decode_embeddings(raw, call.request), raw)
        usage = self._read(_decode_embeddings, answer).usage
        return ProviderResponse(answer, to_usage(usage) if usage is not None else None)

    def count_tokens(self, call: ChatCall) -> VendorCount | None:
        caller, vendor = DIALECTS[call.request.dialect], self._wire(call)
        endpoint = COUNT_ENDPOINTS.get(vendor.name)
        if endpoint is None or time.monotonic() < self._no_counts_until.get(call.model, 0.0):
            return None
        if caller is vendor:
            # As it would be sent: without another vendor's data, and without what the gateway has put into the input.
            body = endpoint.body(
                call.model, msgspec.json.decode(vendor.pass_request(call.request, self._outgoing(call)))
            )
        else:
            request = vendor.encode_request(self._decode(caller, call), self._outgoing(call))
            body = endpoint.translated_body(call.model, request)
        try:
            with closing(self._post(vendor, body, call, path=endpoint.path_of(call.model))) as exchange:
                answer = exchange.read_all()
        except UpstreamError as exc:
            if exc.upstream_status in _NO_ENDPOINT:
                self._no_counts_until[call.model] = time.monotonic() + _ASK_AGAIN_S
            raise
        counted = self._read(endpoint.read, answer)
        return counted if caller is vendor else counted._replace(body=b"")

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
            headers=b"Content-Type: %b\r\n" % content_type.encode("ascii"),
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

    def _decode(self, caller: Dialect, call: ChatCall) -> Prompt:
        """Returns what the call's request means."""
        prompt = decode_request(call.request)
        # Clients of the other dialects send back what they were sent. Under a budget nothing is added to a prompt that
        # admission has not seen.
        has_budget = call.max_output_tokens is not None
        return recalled(prompt, call.key_id, self._memory) if caller.name == "chat" and not has_budget else prompt

    def _encode(self, vendor: Dialect, prompt: Prompt, outgoing: Outgoing) -> bytes:
        """Returns the body for the vendor. Raises `InvalidRequest` for one that is nested too deeply."""
        try:
            return encode(vendor.encode_request(prompt, outgoing))
        except RecursionError:
            raise InvalidRequest("The request is nested too deeply.") from None

    def _translated_events(self, caller: Dialect, vendor: Dialect, call: ChatCall, prompt: Prompt) -> TranslatedEvents:
        framing = framing_of(call, prompt)
        stages: list[Callable[[Event], Iterable[Event]]] = []
        custom_tools = UnwrapEvents(prompt)
        if custom_tools.needed:
            stages.append(custom_tools.feed)
        if caller.name == "chat":
            stages.append(ReasoningCollector(call.key_id, framing.call_id, self._memory).feed)
        return TranslatedEvents(caller, vendor.stream_decoder(self.name), caller.stream_encoder(framing), stages)

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

    def _post(self, wire: Dialect, body: bytes, call: ChatCall, path: str = "") -> Exchange:
        exchange = self._client.post(
            path or wire.path(call.model, bool(call.request.stream)),
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
        except MALFORMED as exc:
            log_stumble(self.name, exc)
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
