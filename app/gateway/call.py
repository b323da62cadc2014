"""One call: what is known of it before admission, while it runs, and what its caller is told."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.charges import ChargedAttempt
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.identity import Caller
from app.errors import Remaining
from app.gateway.admission import Admitted
from app.gateway.router import Attempts
from app.gateway.routes import Route
from app.providers.base import CancelToken


class CallContext(msgspec.Struct):
    """What is known of a call before it is admitted. `call_id` is unique; `request_id` may be the client's own.

    `smart`: the gateway picks the model. `notes`: what it did to the call before admission, as name and value.
    `endpoint`: the name of a chat call's endpoint in the ledger.
    """

    request_id: str
    call_id: str
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)
    read_cache: bool = True
    write_cache: bool = True
    smart: bool = False
    notes: tuple[tuple[str, str], ...] = ()
    endpoint: str = "chat.completions"

    @property
    def tags(self) -> str:
        """The notes as the ledger keeps them: `route=code optimized=trimmed`."""
        return " ".join(f"{name}={value}" for name, value in self.notes)


def notes_of(tags: str) -> tuple[tuple[str, str], ...]:
    """The notes that `CallContext.tags` made these tags of."""
    return tuple((name, value) for name, _, value in (tag.partition("=") for tag in tags.split()))


class RunningCall(msgspec.Struct, kw_only=True):
    """A call from admission to settlement. `cache` is hit, miss or bypass."""

    context: CallContext
    caller: Caller
    request: ChatRequest | EmbedRequest
    route: Route
    endpoint: str
    streamed: bool
    row: dict[str, Any]
    admitted: Admitted
    cache: str
    started: float  # time.monotonic
    deadline: float
    attempts: Attempts = msgspec.field(default_factory=Attempts)
    earlier: tuple[ChargedAttempt, ...] = ()  # of a queued call: what it cost before this time
    ttft_s: float | None = None
    settled: bool = False

    @property
    def has_budget(self) -> bool:
        """Whether the caller's money is limited."""
        admitted = self.admitted
        return admitted.ask.reserve.nanousd > 0 or any(c.counter.limit.unit == "nanousd" for c in admitted.charges)


class Report(msgspec.Struct, frozen=True):
    """What the caller is told about a call, in headers. `cost_nanousd` is None while a stream still runs."""

    model: str
    provider: str
    cache: str
    attempts: int
    latency_ms: float
    remaining: tuple[Remaining, ...]
    cost_nanousd: int | None
    notes: tuple[tuple[str, str], ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """A whole answer in OpenAI's wire format, and what its caller is told about it."""

    body: bytes
    report: Report
