"""Demo answers in other dialects: the demo model speaks chat completions, and is translated for every other caller."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from app.domain.body import encode
from app.domain.chat import ChatRequest
from app.domain.usage import Usage
from app.errors import GatewayError
from app.providers.base import ChatCall, ProviderResponse, ProviderStream
from app.providers.dialects import DIALECTS, decode_request
from app.providers.dialects.dialect import Outgoing
from app.providers.framing import framing_of
from app.providers.stream_events import TranslatedEvents


class Translation:
    """One call of another dialect, and the chat call that it becomes. Raises `Untranslatable` when it is built."""

    def __init__(self, call: ChatCall, provider: str) -> None:
        self._dialect = DIALECTS[call.request.dialect]
        self._provider = provider
        prompt = decode_request(call.request)
        outgoing = Outgoing(origin=provider, model=call.model, stream=bool(call.request.stream), drop=call.drop)
        body = DIALECTS["chat"].encode_request(prompt, outgoing)
        request = ChatRequest.parse(encode(body))
        self.dropped = tuple(outgoing.dropped)
        self.chat_call = replace(call, request=request)
        self._framing = framing_of(call, prompt)

    def answer(self, response: ProviderResponse) -> ProviderResponse:
        """Returns a chat completion in the caller's dialect."""
        answer = DIALECTS["chat"].decode_answer(response.body, self._provider)
        body = self._dialect.encode_answer(answer, self._framing)
        return response._replace(body=body, dropped=self.dropped)

    def stream(self, chunks: ProviderStream) -> TranslatedStream:
        """Returns chunks of a chat completion as a stream in the caller's dialect."""
        decoder = DIALECTS["chat"].stream_decoder(self._provider)
        events = TranslatedEvents(self._dialect, decoder, self._dialect.stream_encoder(self._framing))
        return TranslatedStream(chunks, events, self.dropped)


class TranslatedStream:
    """A stream of the demo model in another dialect. See `providers.base.ProviderStream`."""

    def __init__(self, chunks: ProviderStream, events: TranslatedEvents, dropped: tuple[str, ...]) -> None:
        self.dropped = dropped
        self.heartbeat = events.heartbeat
        self.error_event = events.error_event
        self._chunks = chunks
        self._events = events

    @property
    def usage(self) -> Usage | None:
        return self._chunks.usage

    @property
    def prompt_usage(self) -> Usage | None:
        return self._chunks.prompt_usage

    @property
    def text_bytes(self) -> int:
        return self._chunks.text_bytes

    @property
    def chunks(self) -> int:
        return self._chunks.chunks

    @property
    def complete(self) -> bool:
        return self._events.complete

    @property
    def ending(self) -> bytes:
        return self._events.ending

    def __iter__(self) -> Iterator[bytes]:
        for block in self._chunks:
            if not block:
                yield block
                continue
            if written := self._take(block):
                yield written
        if written := self._take(self._chunks.ending):
            yield written

    def close(self) -> None:
        self._chunks.close()

    def _take(self, block: bytes) -> bytes:
        written = self._events.take(block, block.removesuffix(b"\n\n").split(b"\n\n"))
        if self._events.failure is not None:
            raise GatewayError("The demo model's answer could not be translated.") from self._events.failure
        return written
