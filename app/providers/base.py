"""Provider interface: the calls that the gateway makes to a provider, whatever its wire format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.usage import Usage


class CancelToken:
    """Cancellation token of one call: set when nobody wants its answer any more.

    The greenlet that runs the call registers a callback (`on_cancel`); `cancel` may come before or after that.
    """

    __slots__ = ("_callback", "cancelled")

    def __init__(self) -> None:
        self.cancelled = False
        self._callback: Callable[[], None] | None = None

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        """Sets the one function to call when the call is cancelled, at once if it is already; None for no function."""
        self._callback = callback
        if self.cancelled and callback is not None:
            callback()

    def cancel(self) -> None:
        """Calls the registered function, unless the call was cancelled before."""
        if not self.cancelled:
            self.cancelled = True
            if self._callback is not None:
                self._callback()


class ChatCall(msgspec.Struct, frozen=True, kw_only=True):
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
    """One attempt at an embedding. See `ChatCall`."""

    request: EmbedRequest
    model: str
    request_id: str
    deadline: float
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)


class ProviderResponse(NamedTuple):
    """A complete response in OpenAI's wire format.

    `usage` is None when the provider sent none; an estimate is then made from `text_bytes`, the UTF-8 length of the
    generated text and tool arguments.
    """

    body: bytes
    usage: Usage | None
    text_bytes: int = 0


class ProviderStream(Protocol):
    """A response that is being streamed, and whose first chunk has arrived.

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
    """One configured provider. Its methods raise `UpstreamError`s and `ClientGone`, and no error of their transport."""

    name: str

    def chat(self, call: ChatCall) -> ProviderResponse:
        """Returns the complete response."""

    def stream(self, call: ChatCall) -> ProviderStream:
        """Returns when the first chunk is there: until then the router can still fall back to another target."""

    def embed(self, call: EmbedCall) -> ProviderResponse:
        """Returns the embeddings."""

    def check(self, timeout_s: float) -> None:
        """Raises `UpstreamError` when the provider cannot be reached, or refuses our key. Costs no tokens."""

    def stats(self) -> dict[str, Any]:
        """Returns counts for `/debug`, such as those of a connection pool. None of them is secret."""
