"""Codec calls as the gateway makes them, and the played vendors' rules as the judge of each request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from app.domain.chat import ChatRequest
from app.domain.content import Answer, Event, Prompt
from app.domain.gemini import GeminiRequest
from app.domain.generation import GenerationRequest
from app.domain.messages import MessagesRequest
from app.domain.responses import ResponsesRequest
from app.providers.dialects import DIALECTS
from app.providers.dialects.dialect import Framing, Outgoing
from tests.support.vendors.chat import ChatWire
from tests.support.vendors.gemini import GeminiWire
from tests.support.vendors.messages import MessagesWire
from tests.support.vendors.play import Asked
from tests.support.vendors.responses import ResponsesWire
from tests.support.vendors.wire import Wire

NAMES = ("chat", "messages", "responses", "gemini")
MODEL = "plain"
ORIGIN = "vendor"
WIRES: dict[str, Wire] = {
    "chat": ChatWire(),
    "messages": MessagesWire(),
    "responses": ResponsesWire(),
    "gemini": GeminiWire(),
}
_HEADERS = {
    "authorization": "Bearer x",
    "x-api-key": "x",
    "x-goog-api-key": "x",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "",
}


def parse(dialect: str, body: dict[str, Any], *, stream: bool = False, model: str = MODEL) -> GenerationRequest:
    """Returns the request that a caller makes with `body`, to which its model is added where it has a place there."""
    if dialect == "gemini":
        return GeminiRequest.parse(msgspec.json.encode(body), model, stream)
    raw = msgspec.json.encode({"model": model, **body, **({"stream": True} if stream else {})})
    if dialect == "messages":
        return MessagesRequest.parse(raw)
    return ChatRequest.parse(raw) if dialect == "chat" else ResponsesRequest.parse(raw)


def decode(dialect: str, body: dict[str, Any], *, stream: bool = False, model: str = MODEL) -> Prompt:
    """Returns what a caller asks with `body`."""
    return DIALECTS[dialect].decode_request(parse(dialect, body, stream=stream, model=model))


def target(dialect: str, *, stream: bool = False, **fields: Any) -> Outgoing:
    """Returns the target of a request to OpenAI, Anthropic or Google."""
    fields = {"origin": ORIGIN, "model": MODEL, "max_tokens_field": "max_completion_tokens", **fields}
    return Outgoing(stream=stream, **fields)


def encode(dialect: str, prompt: Prompt, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """Returns the body for a vendor, as it is after it has been on the wire."""
    body = DIALECTS[dialect].encode_request(prompt, target(dialect, stream=stream, **fields))
    return dict(json.loads(msgspec.json.encode(body)))


def judge(dialect: str, body: dict[str, Any], *, stream: bool = False, model: str = MODEL) -> Asked:
    """Returns what the played vendor takes `body` for. Raises `Refused` for what it does not take."""
    return WIRES[dialect].read(msgspec.json.encode(body), _HEADERS, model=model, stream=stream)


def framing(prompt: Prompt, *, include_usage: bool = True) -> Framing:
    """Returns the framing of the answer to `prompt`."""
    return Framing(call_id="0a1b2c", created=1_800_000_000, prompt=prompt, fields={}, include_usage=include_usage)


def encode_answer(dialect: str, answer: Answer, prompt: Prompt) -> dict[str, Any]:
    """Returns a whole answer as a caller gets it."""
    return dict(json.loads(DIALECTS[dialect].encode_answer(answer, framing(prompt))))


def encode_stream(dialect: str, events: Sequence[Event], prompt: Prompt, *, include_usage: bool = True) -> bytes:
    """Returns a stream as a caller gets it, whole if its events are."""
    encoder = DIALECTS[dialect].stream_encoder(framing(prompt, include_usage=include_usage))
    sent = b"".join(encoder.encode(event) for event in events)
    return sent + (encoder.ending() if type(events[-1]).__name__ == "Stopped" else b"")


def split(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the payload of each whole event."""
    for event in stream.split(b"\n\n")[:-1]:
        name, data = "", b""
        for line in event.split(b"\n"):
            if line.startswith(b"event: "):
                name = line[7:].decode()
            elif line.startswith(b"data: "):
                data = line[6:]
        if data:
            yield name, data


def decode_stream(dialect: str, stream: bytes) -> tuple[list[Event], bool]:
    """Returns the events of a vendor's stream, and whether it was whole."""
    decoder = DIALECTS[dialect].stream_decoder(ORIGIN)
    events: list[Event] = []
    for name, payload in split(stream):
        if decoder.complete:
            break
        events += decoder.decode(name, payload)
    return [*events, *decoder.end()], decoder.complete
