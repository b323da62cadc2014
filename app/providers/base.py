"""Provider interface: the calls that the gateway makes to a provider, whatever its wire format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

from app.domain.chat import EmbedRequest
from app.domain.generation import DialectName, GenerationRequest
from app.domain.media import MediaRequest
from app.domain.usage import Usage
from app.errors import GatewayError
from app.providers.vendor_counts import VendorCount


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

    `wires` are the dialects in which the target serves the model, the preferred one first; empty where the provider
    has but one. `max_output_tokens`, if not None, bounds each choice in whatever field the provider heeds, and replaces
    the caller's own bounds: more must not be spent. `model_max_output_tokens` is the longest answer of the model, for
    dialects that require a bound. `drop` are paths of the request that may be left out where they cannot be translated.
    `headers` are the caller's own that go to vendors of its dialect, as lines that end in CRLF. `key_id` is the
    caller's, `call_id` ours and unique.
    """

    request: GenerationRequest
    model: str
    request_id: str
    deadline: float
    call_id: str = ""
    key_id: str = ""
    wires: tuple[DialectName, ...] = ()
    max_output_tokens: int | None = None
    model_max_output_tokens: int = 16_384
    drop: frozenset[str] = frozenset()
    headers: bytes = b""
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)


class EmbedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at an embedding. See `ChatCall`."""

    request: EmbedRequest
    model: str
    request_id: str
    deadline: float
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)


class MediaCall(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a media request. See `ChatCall`."""

    request: MediaRequest
    model: str
    request_id: str
    deadline: float
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)


class ProviderResponse(NamedTuple):
    """A complete response in the caller's dialect.

    `usage` is None when the provider sent none; an estimate is then made from `text_bytes`, the UTF-8 length of the
    generated text and tool arguments. `dropped` are the paths of the request that were left out.
    """

    body: bytes
    usage: Usage | None
    text_bytes: int = 0
    dropped: tuple[str, ...] = ()


class ProviderStream(Protocol):
    """A response that is being streamed, and whose first content has arrived.

    Iterating yields blocks of one or more whole SSE events in the caller's dialect, ready for the client, and `b""`
    after each `heartbeat_s` of silence. The terminal event is never yielded: `complete` turns True, the iteration ends,
    and `ending` is what the client gets last. Raises `UpstreamError` (cut, idle, error event) and `ClientGone` (the
    call's token was cancelled).
    """

    @property
    def usage(self) -> Usage | None: ...

    @property
    def prompt_usage(self) -> Usage | None:
        """Usage of the prompt, as far as the provider has told it while `usage` is still None."""

    @property
    def text_bytes(self) -> int:
        """UTF-8 length of what was generated so far, for an estimate when the stream ends early."""

    @property
    def chunks(self) -> int:
        """Chunks that carried generated text so far: mostly one token each."""

    @property
    def complete(self) -> bool: ...

    @property
    def ending(self) -> bytes: ...

    @property
    def heartbeat(self) -> bytes:
        """Bytes that the client gets in a silence."""

    @property
    def dropped(self) -> tuple[str, ...]:
        """Paths of the request that were left out."""

    def __iter__(self) -> Iterator[bytes]: ...

    def error_event(self, error: GatewayError, request_id: str) -> bytes:
        """Returns the event that tells the client of an error, after which nothing follows."""

    def close(self) -> None:
        """Ends the upstream call at once; a second call does nothing."""


class MediaResponse(NamedTuple):
    """An answer to a media request as the provider sent it: whole, or streamed, when `usage` is the stream's."""

    content_type: str
    body: bytes | ProviderStream
    usage: Usage | None = None


class Provider(Protocol):
    """One configured provider. Its methods raise `UpstreamError`s and `ClientGone`, and no error of their transport."""

    name: str

    def chat(self, call: ChatCall) -> ProviderResponse:
        """Returns the complete response."""

    def stream(self, call: ChatCall) -> ProviderStream:
        """Returns when the first chunk is there: until then the router can still fall back to another target."""

    def embed(self, call: EmbedCall) -> ProviderResponse:
        """Returns the embeddings."""

    def count_tokens(self, call: ChatCall) -> VendorCount | None:
        """Returns the vendor's count of the call's prompt; None if it has no endpoint for that. It costs nothing.

        Raises `UpstreamError`, and `Untranslatable` for a request of another dialect.
        """

    def media(self, call: MediaCall) -> MediaResponse:
        """Returns the answer; of one that is streamed, when its first bytes are there."""

    def check(self, timeout_s: float) -> None:
        """Raises `UpstreamError` when the provider cannot be reached, or refuses our key. Costs no tokens."""

    def stats(self) -> dict[str, Any]:
        """Returns counts for `/debug`, such as those of a connection pool. None of them is secret."""
