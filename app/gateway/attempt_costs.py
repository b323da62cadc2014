"""The cost of a call's upstream attempts, those included that gave no answer.

A provider bills what it has worked on, whether or not its answer arrived: an attempt that timed out, was cut off, was
hung up on or was left for a fallback is charged as estimated.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from app.domain.charges import ChargedAttempt
from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.usage import Usage
from app.errors import ClientGone, Untranslatable, UpstreamError
from app.gateway.implied_usage import with_implied_usage
from app.gateway.pricing import Pricing


class Unanswered(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that the provider may bill although its answer never came. `outcome` as in `ChargedAttempt`."""

    provider: str
    model: str
    outcome: str


def unanswered(provider: str, model: str, exc: BaseException) -> Unanswered | None:
    """Returns the attempt that `exc` ended, if the provider may bill it."""
    if isinstance(exc, UpstreamError):
        return Unanswered(provider, model, exc.kind) if exc.billable else None
    if isinstance(exc, ClientGone):
        return Unanswered(provider, model, "client_gone") if exc.billable else None
    if isinstance(exc, Untranslatable):
        return None
    # A bug, or the worker's end, in its middle: nobody knows what was sent.
    return Unanswered(provider, model, "interrupted")


class AttemptCosts:
    """Prices attempts, by what the provider reported or by an estimate."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing

    def answered(self, request: ChatRequest | EmbedRequest, provider: str, model: str, usage: Usage) -> int | None:
        """Returns the cost of `usage` in nano-dollars; None when the price is unknown.

        A service tier that was asked for, and that the answer does not mention, may or may not have been honoured: the
        dearer one counts.
        """
        card = self._pricing.rate_card(provider, model, usage.service_tier)
        if card is None:
            return None
        cost = card.cost_nanousd(usage)
        asked = request.service_tier if isinstance(request, ChatRequest) else None
        if asked and not usage.service_tier:
            other = self._pricing.rate_card(provider, model, asked)
            cost = max(cost, other.cost_nanousd(usage)) if other is not None else cost
        return cost

    def knows(self, provider: str, model: str, usage: Usage) -> bool:
        """Says whether the cost that `answered` returns covers everything in `usage`."""
        if usage.details is None:
            return True
        card = self._pricing.rate_card(provider, model, usage.service_tier)
        return card is not None and card.can_price(usage)

    def unanswered(
        self,
        request: ChatRequest | EmbedRequest,
        attempts: Sequence[Unanswered],
        completion_tokens: int,
        *,
        ceiling: bool,
    ) -> list[ChargedAttempt]:
        """Returns a charge for each attempt, as if it had written `completion_tokens`.

        `ceiling`: at the dearest of the model's rates.
        """
        charged = []
        for attempt in attempts:
            usage = with_implied_usage(
                Usage(request.estimate_prompt_tokens_closely(), completion_tokens, estimated=True),
                request,
                attempt.model,
            )
            if ceiling:
                cost = self._pricing.max_cost_nanousd(attempt.provider, attempt.model, *usage[:2], usage.searches)
            else:
                cost = self.answered(request, attempt.provider, attempt.model, usage)
            charged.append(
                ChargedAttempt(attempt.provider, attempt.model, attempt.outcome, *usage[:2], cost or 0, True)
            )
        return charged
