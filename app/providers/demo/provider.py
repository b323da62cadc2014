"""Provider of the demo model: deterministic, and its tokens are words.

A script (`config.providers.DemoScript`) adds delays, faults and token counts.
"""

from __future__ import annotations

import hashlib
import struct
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import gevent
import msgspec
from gevent.event import Event

from app.config.providers import DemoScript, ProviderConfig, Timeouts
from app.domain.usage import Usage
from app.errors import ClientGone, ConfigError, GatewayError, InvalidRequest, UpstreamError, UpstreamTimeout
from app.providers.base import (
    CancelToken,
    ChatCall,
    EmbedCall,
    MediaCall,
    MediaResponse,
    ProviderResponse,
    ProviderStream,
)
from app.providers.demo.completion import DemoCompletion
from app.providers.demo.media import demo_media
from app.providers.demo.translated import Translation
from app.providers.dialects import DIALECTS
from app.providers.reasoning import NO_MEMORY, ReasoningMemory
from app.providers.upstream_errors import error_from_status

_encode = msgspec.json.Encoder().encode
_DIMENSIONS = 64
_MAX_DIMENSIONS = 3072


class DemoProvider:
    """The demo model. See `providers.base.Provider`."""

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
        """The model thinks nothing that would have to be kept in `memory`, and has no secrets."""
        if config.base_url is not None:
            raise ConfigError("base_url: the kind demo has none")
        self.name = name
        self._script = config.script or DemoScript()
        self._timeouts = timeouts
        self._heartbeat_s = heartbeat_s
        self._failures = 0

    def chat(self, call: ChatCall) -> ProviderResponse:
        if call.request.dialect != "chat":
            translation = Translation(call, self.name)
            return translation.answer(self.chat(translation.chat_call))
        self._simulate_start(call)
        completion = DemoCompletion(call, self._script, self.name)
        usage = None if self._script.omit_usage else completion.usage
        return ProviderResponse(_encode(completion.to_openai()), usage, completion.text_bytes)

    def stream(self, call: ChatCall) -> ProviderStream:
        if call.request.dialect != "chat":
            translation = Translation(call, self.name)
            return translation.stream(self.stream(translation.chat_call))
        self._simulate_start(call)
        if self._script.cut_after_chunks == 0:
            raise _cut_error(self.name)
        return DemoStream(
            call, self._script, provider=self.name, heartbeat_s=self._heartbeat_s, timeouts=self._timeouts
        )

    def embed(self, call: EmbedCall) -> ProviderResponse:
        self._simulate_start(call)
        return _embeddings(call)

    def count_tokens(self, call: ChatCall) -> None:
        """Returns nothing: prompts for the demo model are counted as others are."""

    def media(self, call: MediaCall) -> MediaResponse:
        self._simulate_start(call)
        return demo_media(call)

    def check(self, timeout_s: float) -> None:
        """Succeeds: the demo model is always there."""

    def stats(self) -> dict[str, Any]:
        return {"failures": self._failures}

    def _simulate_start(self, call: ChatCall | EmbedCall | MediaCall) -> None:
        """Waits and fails as the script says. Raises `UpstreamTimeout`, `ClientGone` and the scripted error."""
        script = self._script
        delay_s = script.delay_s
        first_byte_s = self._timeouts.first_byte_s
        pause(min(delay_s, first_byte_s), call.deadline, call.cancel, self.name)
        if delay_s > first_byte_s:
            raise UpstreamTimeout("The demo model took too long.", provider=self.name, kind="timeout_first_byte")
        if script.fail_status is not None and (script.fail_times is None or self._failures < script.fail_times):
            self._failures += 1
            raise error_from_status(script.fail_status, provider=self.name)


class DemoStream:
    """A stream with a word a chunk. See `providers.base.ProviderStream`."""

    prompt_usage = None
    dropped: tuple[str, ...] = ()
    ending = b"data: [DONE]\n\n"
    heartbeat = DIALECTS["chat"].heartbeat

    def __init__(
        self, call: ChatCall, script: DemoScript, *, provider: str, heartbeat_s: float, timeouts: Timeouts
    ) -> None:
        self.usage: Usage | None = None
        self.text_bytes = 0
        self.chunks = 0
        self.complete = False
        self._call = call
        self._script = script
        self._provider = provider
        self._heartbeat_s = heartbeat_s
        self._idle_s = timeouts.idle_s
        self._completion = DemoCompletion(call, script, provider)

    def __iter__(self) -> Iterator[bytes]:
        completion, script = self._completion, self._script
        cut_at = script.cut_after_chunks
        for sent, (index, delta, size) in enumerate(completion.deltas()):
            if sent == cut_at:
                raise _cut_error(self._provider)
            if sent and index == 0:
                yield from self._wait(script.chunk_delay_s)
            self.chunks += 1
            self.text_bytes += size
            yield self._event({"choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        if cut_at is not None and cut_at <= self.chunks:
            raise _cut_error(self._provider)
        for index in range(self._call.request.choices):
            done = {"index": index, "delta": {}, "finish_reason": completion.finish_reason}
            yield self._event({"choices": [done]})
        if not script.omit_usage:
            self.usage = completion.usage
            if self._call.request.include_usage:
                yield self._event({"choices": [], "usage": completion.wire_usage()})
        self.complete = True

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        return DIALECTS["chat"].error_event(error, request_id, None)

    def close(self) -> None:
        """Returns at once: no upstream call runs."""

    def _event(self, fields: dict[str, Any]) -> bytes:
        base = {
            **self._completion.base("chat.completion.chunk"),
            **({"usage": None} if self._call.request.include_usage else {}),
        }
        return b"data: " + _encode(base | fields) + b"\n\n"

    def _wait(self, delay_s: float) -> Iterator[bytes]:
        """Waits, with a heartbeat now and then."""
        silent_s = 0.0
        while silent_s < delay_s:
            step_s = min(self._heartbeat_s, delay_s - silent_s, self._idle_s - silent_s)
            pause(step_s, self._call.deadline, self._call.cancel, self._provider)
            silent_s += step_s
            if silent_s >= self._idle_s:
                raise UpstreamTimeout("The demo model fell silent.", provider=self._provider, kind="timeout_idle")
            if silent_s < delay_s:
                yield b""


def pause(delay_s: float, deadline: float, cancel: CancelToken, provider: str) -> None:
    """Waits, unless the client hangs up (`ClientGone`) or the call's time is over (`UpstreamTimeout`)."""
    if cancel.cancelled:
        raise ClientGone("The client hung up.")
    if delay_s <= 0:
        gevent.sleep(0)
        return
    hung_up = Event()
    cancel.on_cancel(hung_up.set)
    left_s = deadline - time.monotonic()
    try:
        if hung_up.wait(max(min(delay_s, left_s), 0.0)):
            raise ClientGone("The client hung up.")
    finally:
        cancel.on_cancel(None)
    if left_s < delay_s:
        raise UpstreamTimeout("The demo model took too long.", provider=provider, kind="timeout_total")


def _cut_error(provider: str) -> UpstreamError:
    return UpstreamError("The demo model broke off its answer.", provider=provider, kind="cut")


def _embeddings(call: EmbedCall) -> ProviderResponse:
    fields = call.request.fields
    given_size = bytes(fields.get("dimensions", b"null"))
    size = _DIMENSIONS
    if given_size != b"null":
        # Its digits before its value: there are numbers that no decoder takes.
        size = int(given_size) if given_size.isdigit() and len(given_size) < 6 else 0
    if not 1 <= size <= _MAX_DIMENSIONS:
        raise InvalidRequest(f"Expected 1 to {_MAX_DIMENSIONS}: `dimensions`.", param="dimensions")
    as_base64 = bytes(fields.get("encoding_format", b"")) == b'"base64"'
    given = call.request.input
    inputs = given if isinstance(given, list) and not all(isinstance(i, int) for i in given) else [given]
    data = []
    for index, text in enumerate(inputs):
        vector: Any = _vector(str(text), size)
        if as_base64:
            vector = b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = Usage(sum(len(str(text).split()) for text in inputs))
    wire = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return ProviderResponse(_encode({"object": "list", "data": data, "model": call.model, "usage": wire}), usage)


def _vector(text: str, size: int) -> list[float]:
    """Returns a unit vector that depends on `text` alone."""
    raw = b""
    while len(raw) < size * 2:
        raw += hashlib.sha256(text.encode("utf-8", "surrogatepass") + len(raw).to_bytes(4, "big")).digest()
    values = [number / 32768 for number in struct.unpack(f"<{size}h", raw[: size * 2])]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / length for value in values]
