"""Calls whose caller and vendor both speak Gemini: the bytes pass, and what accounting needs is read beside them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from app.domain.body import encode
from app.domain.gemini_names import camel, with_camel_names
from app.domain.generation import GenerationRequest
from app.domain.usage import Usage
from app.providers.dialects.dialect import Outgoing, Reported
from app.providers.dialects.gemini import signatures
from app.providers.dialects.gemini.running_usage import RunningUsage, usage_of
from app.providers.dialects.gemini.stream_reading import has_error, reported
from app.providers.dialects.gemini.wire import WireAnswer, decode_wire

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[Any] | dict[str, Any])


def path(model: str, stream: bool) -> str:
    """Returns the path of a call, behind the version. A model in a folder (`tunedModels/x`) is none of `models`."""
    name = quote(model if "/" in model else f"models/{model}", safe="/-._~")
    return f"/{name}:streamGenerateContent?alt=sse" if stream else f"/{name}:generateContent"


def pass_request(request: GenerationRequest, outgoing: Outgoing) -> bytes:
    """Returns the caller's own fields. The model stands in the path, and a body that names one is refused by Google."""
    fields: dict[str, Any] = {name: value for name, value in request.fields.items() if name != "model"}
    if outgoing.max_output_tokens is not None:
        fields["generationConfig"] = _bounded(fields.get("generationConfig"), outgoing.max_output_tokens)
    if any(mark in request.raw for mark in signatures.CARRIER_MARKS):
        contents = with_camel_names(_OBJECTS.decode(fields["contents"]), "content", "contents")
        for content in contents if isinstance(contents, list) else [contents]:
            _open_carriers(content, outgoing.origin)
        fields["contents"] = contents
    return encode(fields)


def _bounded(config: msgspec.Raw | None, bound: int) -> dict[str, Any]:
    fields = _OBJECT.decode(config) if config is not None and bytes(config) != b"null" else {}
    kept: dict[str, Any] = {name: value for name, value in fields.items() if camel(name) != "maxOutputTokens"}
    return {**kept, "maxOutputTokens": bound}


def _open_carriers(content: Any, origin: str) -> None:
    """Puts Google's own signature back where a carrier stands, or where it is another vendor's, none."""
    parts = content.get("parts") if isinstance(content, dict) else None
    for part in parts if isinstance(parts, list) else [parts]:
        if not isinstance(part, dict):
            continue
        held = signatures.read(part.get("thoughtSignature"))
        if held is None:
            continue
        if held.own is not None and held.own.origin == origin and held.own.kind == signatures.KIND:
            part["thoughtSignature"] = held.own.data
        elif "functionCall" in part:
            part["thoughtSignature"] = signatures.DUMMY
        else:
            del part["thoughtSignature"]


def read_answer(body: bytes) -> Reported:
    """Returns what the answer says of its cost. Raises `ValueError` for a body that is no answer."""
    wire = decode_wire(body)
    if wire.candidates is None and wire.prompt_feedback is None and not wire.usage_metadata:
        raise ValueError("a response without candidates")
    usage = usage_of(wire)
    return Reported(usage, 0 if usage is not None else _text_bytes(wire))


def _text_bytes(wire: WireAnswer) -> int:
    """Returns the UTF-8 length of what was generated, calls' arguments included."""
    size = 0
    for candidate in wire.candidates or ():
        for part in candidate.content.parts or () if candidate.content is not None else ():
            if part.text:
                size += len(part.text) if part.text.isascii() else len(part.text.encode("utf-8", "replace"))
            if part.function_call is not None:
                size += len(part.function_call.name or "") + len(bytes(part.function_call.args))
    return size


class GeminiWatch:
    """Reads a stream that passes untouched. See `dialect.Watch`.

    The last chunk, with the finish reason, is held back until the body has ended.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.started = False
        self.complete = False
        self._running = RunningUsage()
        self._choices = request.choices
        self._finished: set[int] = set()
        self._blocked = False
        self._held: list[bytes] = []

    def see(self, name: str, payload: bytes) -> bool:
        """Records a chunk, and returns True if the client gets it now. Raises `StreamReported`, `ValueError`."""
        try:
            wire = decode_wire(payload)
        except msgspec.ValidationError:
            return self._see_unusual(payload)
        if has_error(wire):
            raise reported(wire.error, payload)
        self._running.see(wire)
        size = _text_bytes(wire)
        if size:
            self.chunks += 1
            self.text_bytes += size
        if wire.candidates:
            self.started = True
            for each in wire.candidates:
                if each.finish_reason:
                    self._finished.add(each.index or 0)
        elif wire.block_reason:
            self.started = self._blocked = True
        if self._blocked or len(self._finished) >= self._choices:
            self._held.append(payload)
            self.usage = self._running.read()
            return False
        return True

    def _see_unusual(self, payload: bytes) -> bool:
        """Records an object of another shape: it is counted by its length."""
        chunk = _OBJECT.decode(payload)
        if "error" in chunk:
            raise reported(chunk["error"], payload)
        self.chunks += 1
        self.text_bytes += len(payload)
        self.started = True
        return True

    def end(self) -> None:
        """Records that the body has ended."""
        self.complete = bool(self._finished) or self._blocked
        self.usage = self._running.read() if self.complete else None

    @property
    def prompt_usage(self) -> Usage | None:
        """Usage of the prompt, as far as it is known before the end."""
        return self._running.read_prompt()

    @property
    def ending(self) -> bytes:
        """The chunks from the finish reason on."""
        return b"".join(b"data: %b\n\n" % payload for payload in self._held)
