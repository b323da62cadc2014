"""Demo answers to media requests: nothing is flagged, speech is silence, a picture has one point."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import msgspec

from app.domain.media import MediaRequest
from app.domain.usage import Usage
from app.errors import GatewayError
from app.net.error_body import error_body
from app.providers.base import MediaCall, MediaResponse

_encode = msgspec.json.Encoder().encode
_CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
_RATE = 8000  # samples a second
_MAX_SECONDS = 60
_CHARACTERS_PER_SECOND = 15
_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
_CREATED = 1_700_000_000


def demo_media(call: MediaCall) -> MediaResponse:
    """Returns the answer to a media request, whole or as events, with its usage."""
    request = call.request
    usage = request.estimate_usage()._replace(estimated=False)
    if request.endpoint == "moderations":
        return MediaResponse("application/json", _encode(_moderation(call)), usage)
    if request.endpoint == "audio.speech":
        sound = _silence(request.characters)
        if not request.streamed:
            return MediaResponse("audio/wav", sound, usage)
        delta = {"type": "speech.audio.delta", "audio": b64encode(sound).decode()}
        return _streamed(usage, [delta, {"type": "speech.audio.done", "usage": _wire(usage)}])
    if request.kind == "audio":
        return _transcription(request, usage)
    pictures = [{"b64_json": _PICTURE} for _ in range(request.images)]
    if request.streamed:
        kind = "image_edit" if request.endpoint == "images.edits" else "image_generation"
        done = {"type": f"{kind}.completed", "created_at": _CREATED, "usage": _wire(usage)}
        return _streamed(usage, [{**done, **picture} for picture in pictures])
    body = {"created": _CREATED, "data": pictures, "usage": _wire(usage)}
    return MediaResponse("application/json", _encode(body), usage)


class DemoEvents:
    """Events that are there already. See `providers.base.ProviderStream`."""

    prompt_usage = None
    dropped: tuple[str, ...] = ()
    text_bytes = 0
    chunks = 0
    ending = b""
    heartbeat = b": keep-alive\n\n"

    def __init__(self, usage: Usage, events: list[dict[str, Any]]) -> None:
        self.usage: Usage | None = usage
        self.complete = False
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        for event in self._events:
            yield b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), _encode(event))
        self.complete = True

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return b"data: " + _encode(error_body(error, request_id)) + b"\n\n"

    def close(self) -> None:
        """Ends nothing."""


def _streamed(usage: Usage, events: list[dict[str, Any]]) -> MediaResponse:
    return MediaResponse("text/event-stream", DemoEvents(usage, events))


def _moderation(call: MediaCall) -> dict[str, Any]:
    given = msgspec.json.decode(call.request.fields["input"])
    inputs = len(given) if isinstance(given, list) and all(isinstance(each, str) for each in given) else 1
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    return {"id": f"modr-{call.request_id}", "model": call.model, "results": [result] * max(inputs, 1)}


def _transcription(request: MediaRequest, usage: Usage) -> MediaResponse:
    text = f"The recording has {request.seconds} seconds."
    if request.streamed:
        delta = {"type": "transcript.text.delta", "delta": text}
        return _streamed(usage, [delta, {"type": "transcript.text.done", "text": text, "usage": _wire(usage)}])
    if request.field("response_format") in ("text", "srt", "vtt"):
        return MediaResponse("text/plain; charset=utf-8", f"{text}\n".encode(), usage)
    body = {"text": text, "usage": {"type": "duration", "seconds": request.seconds}}
    return MediaResponse("application/json", _encode(body), usage)


def _silence(characters: int) -> bytes:
    """Returns a WAV with 8-bit samples, as long as the text would take to be read."""
    samples = b"\x80" * (_RATE * min(characters // _CHARACTERS_PER_SECOND + 1, _MAX_SECONDS))
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, _RATE, 1, 8)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def _wire(usage: Usage) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": usage.prompt_tokens},
    }
