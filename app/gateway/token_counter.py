"""Token counter: how long a prompt is, as the vendor counts it where it has an endpoint for that, or else offline.

A count is free, and leaves no row in the ledger. It is one of the key's requests: limits on requests hold for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from app.domain.content import Prompt
from app.domain.generation import GenerationRequest
from app.domain.identity import Caller
from app.domain.limits import Amounts
from app.domain.usage import UsageRow
from app.errors import InvalidRequest, Remaining, UpstreamError, UpstreamRejected
from app.gateway.admission import Admission
from app.gateway.call import CallContext
from app.gateway.pipeline import Pipeline
from app.gateway.router import Router
from app.gateway.routes import Target
from app.gateway.token_counts import most_tokens
from app.providers.base import ChatCall
from app.providers.vendor_counts import VendorCount
from app.store.reservations import Reservation

_VENDOR_TIMEOUT_S = 5.0
_ENDPOINT = "token_counts"
_ONE_REQUEST = Amounts(requests=1)


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """The length of a prompt. `exact`: the vendor itself counted; otherwise it is less than `tokens`, if not that.

    `body` is the vendor's answer as it came, if it speaks the caller's dialect. `remaining` is what is left of the
    plan's limits.
    """

    tokens: int
    exact: bool
    body: bytes = b""
    remaining: tuple[Remaining, ...] = ()


class TokenCounter:
    """Counts the tokens of requests. `decode` turns one into the neutral form, in which it is counted offline."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        router: Router,
        admission: Admission,
        decode: Callable[[GenerationRequest], Prompt],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._router = router
        self._admission = admission
        self._decode = decode
        self._clock = clock
        self._monotonic = monotonic

    def count(self, caller: Caller, request: GenerationRequest, context: CallContext) -> TokenCount:
        """Returns the count for the first target of the request's model.

        Raises what preprocessing, routing and admission raise, and `UpstreamRejected` when a vendor of the caller's own
        dialect refuses the request. Any other failure of the vendor leads to a count offline.
        """
        request, context = self._pipeline.preprocess(caller, request, context)
        route = self._router.route(request.model, caller)
        admitted = self._admission.admit(caller, self._reservation(caller, request, context))
        try:
            target = route.targets[0]
            counted = None if route.missing_key else self._ask_vendor(target, caller, request, context)
            if counted is None:
                tokens = most_tokens(self._decode(request), target.model)
                return TokenCount(tokens=tokens, exact=False, remaining=admitted.remaining)
            return TokenCount(tokens=counted.tokens, exact=True, body=counted.body, remaining=admitted.remaining)
        finally:
            self._admission.release(admitted.reservation)

    def _ask_vendor(
        self, target: Target, caller: Caller, request: GenerationRequest, context: CallContext
    ) -> VendorCount | None:
        """Returns the vendor's count; None if it has no endpoint for that, or cannot be asked."""
        if target.breaker.is_open(caller.key_id):
            return None
        call = ChatCall(
            request=request,
            model=target.model,
            request_id=context.request_id,
            deadline=self._monotonic() + _VENDOR_TIMEOUT_S,
            call_id=context.call_id,
            key_id=caller.key_id,
            wires=target.wires,
            drop=target.drop,
            headers=context.headers,
            cancel=context.cancel,
        )
        try:
            return target.provider.count_tokens(call)
        except UpstreamRejected as exc:
            if exc.native_dialect == request.dialect:
                raise
            return None
        except (UpstreamError, InvalidRequest):
            return None

    def _reservation(self, caller: Caller, request: GenerationRequest, context: CallContext) -> Reservation:
        row = UsageRow(
            request_id=context.request_id,
            call_id=context.call_id,
            ts=self._clock(),
            key_id=caller.key_id,
            user=request.user or "",
            tenant=caller.tenant,
            model=request.model,
            endpoint=_ENDPOINT,
            status="lost",
        )
        return Reservation(row=row, reserve=_ONE_REQUEST, if_lost=_ONE_REQUEST, deadline_s=_VENDOR_TIMEOUT_S + 60)
