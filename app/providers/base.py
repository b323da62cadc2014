"""What the gateway asks of a provider, whatever its wire format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.usage import Usage


class CancelToken:
    """Tells a running call that nobody wants its answer any more. One call, one token.

    The side that waits registers how to be woken (`on_cancel`); `cancel` may come before or after that.
    """

    __slots__ = ("_wake", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._wake: Callable[[], None] | None = None

    def on_cancel(self, wake: Callable[[], None] | None) -> None:
        self._wake = wake
        if self.cancelled and wake is not None:
            wake()

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            if self._wake is not None:
                self._wake()


class ChatCall(msgspec.Struct, kw_only=True):
    """One attempt at one target. `model` is the provider's name for it; `deadline` is in `time.monotonic` seconds.

    `max_output_tokens`, if not None, bounds each choice in whatever field the provider heeds, and replaces the
    caller's own bounds: more must not be spent.
    """

    request: ChatRequest
    model: str
    request_id: str
    deadline: float
    max_output_tokens: int | None = None
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)


class EmbedCall(msgspec.Struct, frozen=True, kw_only=True):
    request: EmbedRequest
    model: str
    request_id: str
    deadline: float
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)


class ProviderResponse(NamedTuple):
    """A whole answer in OpenAI's wire format. `usage` is None when the provider sent none; `text_bytes` is then
    what an estimate can be made from: the UTF-8 length of the generated text and tool arguments."""

    body: bytes
    usage: Usage | None
    text_bytes: int = 0


class ProviderStream(Protocol):
    """A running stream whose first chunk has arrived.

    Iterating yields blocks of one or more whole SSE events in OpenAI's format (`data: {…}\\n\\n`), ready for the
    client, and `b""` after each `heartbeat_s` of silence. The `[DONE]` event is never yielded: `complete` turns
    True and the iteration ends. A chunk that only carries usage is yielded only if the client asked for it.
    Raises `UpstreamError` (cut, idle, error event) and `ClientGone` (the call's token was cancelled).
    """

    usage: Usage | None
    text_bytes: int  # generated so far, for an estimate when the stream ends early
    chunks: int  # that carried generated text so far: mostly one token each
    complete: bool

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """Ends the upstream call at once; a second call does nothing."""


class Provider(Protocol):
    """One configured provider. Raises the `UpstreamError`s and `ClientGone`, nothing of its transport's."""

    name: str

    def chat(self, call: ChatCall) -> ProviderResponse: ...

    def stream(self, call: ChatCall) -> ProviderStream:
        """Returns when the first chunk is there: until then a failure can still fall back."""

    def embed(self, call: EmbedCall) -> ProviderResponse: ...

    def check(self, timeout_s: float) -> None:
        """Raises `UpstreamError` when the provider cannot be reached, or refuses our key. Costs no tokens."""

    def stats(self) -> dict[str, Any]:
        """Pool figures for `/debug`: no secrets."""
