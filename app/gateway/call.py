"""One call: its context before admission, its state while it runs, and its reply and report to the caller."""

from __future__ import annotations

from typing import cast

import msgspec

from app.domain.attribution import NOBODY, Attribution
from app.domain.charges import ChargedAttempt
from app.domain.chat import EmbedRequest
from app.domain.generation import GenerationRequest
from app.domain.media import MediaRequest
from app.domain.requests import CallRequest
from app.errors import Remaining
from app.gateway.admission import Admitted
from app.gateway.estimates import output_tokens_bound
from app.gateway.router import Attempts
from app.gateway.routes import Route, Target
from app.providers.base import CancelToken, ChatCall, EmbedCall, MediaCall
from app.store.reservations import Reservation


class CallContext(msgspec.Struct, frozen=True):
    """A call before it is admitted. `call_id` is unique; `request_id` may be the client's own.

    `smart`: the gateway picks the model. `notes`: what it did to the call before admission, as name and value.
    `endpoint`: the name of the endpoint in the ledger. `headers`: those of the caller's that go on to vendors of its
    dialect, as lines that end in CRLF. `attribution`: what its headers say of whom the call belongs to.
    """

    request_id: str
    call_id: str
    cancel: CancelToken = msgspec.field(default_factory=CancelToken)
    read_cache: bool = True
    write_cache: bool = True
    smart: bool = False
    notes: tuple[tuple[str, str], ...] = ()
    endpoint: str = "chat.completions"
    headers: bytes = b""
    attribution: Attribution = NOBODY

    @property
    def tags(self) -> str:
        """Returns the notes as the ledger keeps them: `route=code optimized=trimmed`."""
        return " ".join(f"{name}={value}" for name, value in self.notes)


def notes_of(tags: str) -> tuple[tuple[str, str], ...]:
    """Returns the notes that `CallContext.tags` made these tags of."""
    return tuple((name, value) for name, _, value in (tag.partition("=") for tag in tags.split()))


class RunningCall(msgspec.Struct, kw_only=True):
    """A call from admission to settlement. Mutable: it is written to while it runs. `cache` is hit, miss or bypass."""

    context: CallContext
    request: CallRequest
    route: Route
    admitted: Admitted
    cache: str
    started: float  # time.monotonic
    deadline: float
    attempts: Attempts
    earlier: tuple[ChargedAttempt, ...] = ()  # of a queued call: what it cost before this time
    ttft_s: float | None = None
    settled: bool = False
    dropped: tuple[str, ...] = ()  # paths of the request that the target's dialect had no word for

    @property
    def reservation(self) -> Reservation:
        return self.admitted.reservation

    @property
    def has_budget(self) -> bool:
        """Says that the caller's money is limited."""
        return self.admitted.reservation.has_budget

    @property
    def is_cacheable(self) -> bool:
        """Says that the answer goes into the cache."""
        return bool(self.admitted.reservation.cache_key) and self.context.write_cache

    def chat_call(self, target: Target) -> ChatCall:
        """Returns the upstream call of a generation to `target`."""
        context, request = self.context, cast(GenerationRequest, self.request)
        return ChatCall(
            request=request,
            model=target.model,
            request_id=context.request_id,
            deadline=self.deadline,
            call_id=context.call_id,
            key_id=self.admitted.caller.key_id,
            wires=target.wires,
            drop=target.drop,
            headers=context.headers,
            cancel=context.cancel,
            max_output_tokens=output_tokens_bound(self.route, request) if self.has_budget else None,
            model_max_output_tokens=target.max_output_tokens,
        )

    def embed_call(self, target: Target) -> EmbedCall:
        """Returns the upstream call of embeddings to `target`."""
        context = self.context
        return EmbedCall(
            request=cast(EmbedRequest, self.request),
            model=target.model,
            request_id=context.request_id,
            deadline=self.deadline,
            cancel=context.cancel,
        )

    def media_call(self, target: Target) -> MediaCall:
        """Returns the upstream call of a media request to `target`."""
        context = self.context
        return MediaCall(
            request=cast(MediaRequest, self.request),
            model=target.model,
            request_id=context.request_id,
            deadline=self.deadline,
            cancel=context.cancel,
        )


class Report(msgspec.Struct, frozen=True):
    """The facts about a call that its caller is told in headers. `cost_nanousd` is None while a stream still runs."""

    model: str
    provider: str
    cache: str
    attempts: int
    latency_ms: float
    remaining: tuple[Remaining, ...]
    cost_nanousd: int | None
    notes: tuple[tuple[str, str], ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """A whole answer in the caller's dialect, and what its caller is told about it."""

    body: bytes
    report: Report
