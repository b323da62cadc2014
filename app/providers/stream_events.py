"""Events of an upstream's stream on their way to the client: passed on untouched, or translated to another dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from app.domain.content import BlockStarted, Delta, Event, Started, Stopped, Text, Thinking
from app.domain.usage import Usage
from app.errors import GatewayError
from app.providers.dialects.dialect import (
    MALFORMED,
    Dialect,
    StreamDecoder,
    StreamEncoder,
    StreamReported,
    Watch,
)

# Dialects whose clients tell events by their `event:` line; the others' clients may not know that there are such lines.
_NAMED_EVENTS = frozenset({"messages", "responses"})


class PassedEvents:
    """Events whose client speaks the vendor's dialect: a block of them stays as it is unless one must be left out.

    `failure` is what ended the events early: `StreamReported`, or one of `MALFORMED` for what is no event.
    """

    def __init__(self, dialect: Dialect, watch: Watch) -> None:
        self.failure: Exception | None = None
        self.heartbeat = dialect.heartbeat
        self._dialect = dialect
        self._watch = watch
        self._named = dialect.name in _NAMED_EVENTS
        self.end = watch.end

    @property
    def usage(self) -> Usage | None:
        return self._watch.usage

    @property
    def prompt_usage(self) -> Usage | None:
        return self._watch.prompt_usage

    @property
    def text_bytes(self) -> int:
        return self._watch.text_bytes

    @property
    def chunks(self) -> int:
        return self._watch.chunks

    @property
    def started(self) -> bool:
        return self._watch.started

    @property
    def complete(self) -> bool:
        return self._watch.complete

    @property
    def ending(self) -> bytes:
        return self._watch.ending

    def take(self, block: bytes, events: Sequence[bytes]) -> bytes:
        """Returns what of `block`, which is made of `events`, goes to the client."""
        kept: list[bytes] = []
        untouched = True
        named, see = self._named, self._watch.see
        for event in events:
            if not named and event.startswith(b"data: ") and b"\n" not in event:
                name, payload, plain = "", event[6:], True
            else:
                name, payload = parse_event(event)
                plain = named and event.startswith(b"event: ")
            try:
                accepted = bool(payload) and see(name, payload)
            except (StreamReported, *MALFORMED) as exc:
                self.failure = exc
                untouched = False
                break
            if accepted:
                kept.append(
                    event
                    if plain
                    else b"event: %b\ndata: %b" % (name.encode(), payload)
                    if named
                    else b"data: " + payload
                )
            untouched = untouched and accepted and plain
        return block if untouched else b"".join(b"%b\n\n" % event for event in kept)

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return self._dialect.error_event(error, request_id, self._watch)


class TranslatedEvents:
    """Events whose client speaks another dialect than the vendor. See `PassedEvents`."""

    def __init__(
        self,
        dialect: Dialect,
        decoder: StreamDecoder,
        encoder: StreamEncoder,
        stages: Sequence[Callable[[Event], Iterable[Event]]] = (),
    ) -> None:
        """`dialect` is the client's. Events go through the `stages` between decoder and encoder."""
        self.failure: Exception | None = None
        self.heartbeat = dialect.heartbeat
        self.usage: Usage | None = None
        self.prompt_usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.started = False
        self._dialect = dialect
        self._decoder = decoder
        self._encoder = encoder
        self._stages = stages

    @property
    def complete(self) -> bool:
        return self._decoder.complete

    @property
    def ending(self) -> bytes:
        return self._encoder.ending()

    def take(self, block: bytes, events: Sequence[bytes]) -> bytes:
        """Returns what `events` stand for in the client's dialect."""
        written: list[bytes] = []
        try:
            for event in events:
                if self._decoder.complete:
                    break
                name, payload = parse_event(event)
                if payload:
                    self._write(self._decoder.decode(name, payload), written)
        except (StreamReported, *MALFORMED) as exc:
            self.failure = exc
        return b"".join(written)

    def end(self) -> bytes:
        """Returns what is due to the client when the body has ended."""
        written: list[bytes] = []
        self._write(self._decoder.end(), written)
        return b"".join(written)

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return self._dialect.error_event(error, request_id, self._encoder)

    def _write(self, events: Iterable[Event], written: list[bytes]) -> None:
        for stage in self._stages:
            events = [each for event in events for each in stage(event)]
        for event in events:
            self._count(event)
            written.append(self._encoder.encode(event))

    def _count(self, event: Event) -> None:
        if type(event) is Delta:
            self.started = True
            if event.text:
                self.chunks += 1
                self.text_bytes += utf8_bytes(event.text)
        elif type(event) is Stopped:
            self.started = True
            self.usage = event.usage
        elif type(event) is Started:
            self.prompt_usage = event.usage
        elif type(event) is BlockStarted and not isinstance(event.block, Text | Thinking):
            self.started = True


def parse_event(event: bytes) -> tuple[str, bytes]:
    """Returns an event's name, "" without one, and its payload: its data lines.

    A line break between them can only be JSON's white space, so that one line says the same.
    """
    name, data = b"", []
    for line in event.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip()
    return name.decode("ascii", "replace"), b" ".join(data)


def utf8_bytes(text: str | None) -> int:
    """Returns the text's length in UTF-8."""
    return 0 if not text else len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
