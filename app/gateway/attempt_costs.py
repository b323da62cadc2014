"""The cost of a call's upstream attempts, those included that gave no answer.

A provider bills what it has worked on, whether or not its answer arrived: an attempt that timed out, was cut off, was
hung up on or was left for a fallback is charged as estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.domain.charges import ChargedAttempt
from app.domain.media import MediaRequest
from app.domain.money import RateCard
from app.domain.requests import CallRequest
from app.domain.usage import Usage
from app.errors import ClientGone, Untranslatable, UpstreamError
from app.gateway.implied_usage import asked_tier, most_fees, with_implied_usage
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


class AnswerCost(NamedTuple):
    """The cost of an answer. `usage` is the reported one with what it implies.

    `unpriced`: something of it has no known price, and the cost is not a fact. `price_version` names the price list.
    `computed_nanousd` is the cost by our own prices, where the provider reported one as well and they are known.
    """

    usage: Usage
    nanousd: int = 0
    unpriced: bool = False
    price_version: str = ""
    computed_nanousd: int | None = None


class AttemptCosts:
    """Prices attempts, by what the provider reported or by an estimate."""

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing

    def of_answer(self, request: CallRequest, provider: str, model: str, usage: Usage) -> AnswerCost:
        """Returns the cost of an answer with this usage: as reported, by a provider that is trusted with it."""
        usage = with_implied_usage(usage, request, model, self._pricing.kind(provider))
        card = self._pricing.rate_card(provider, model, usage.service_tier)
        computed = self._computed(request, provider, model, usage, card)
        version = "" if card is None else card.version
        reported = usage.reported_cost_nanousd
        if reported is not None and self._pricing.trusts_reported_cost(provider):
            return AnswerCost(usage, reported, False, version, computed)
        unpriced = card is None or not card.can_price(usage)
        return AnswerCost(usage, computed or 0, unpriced, version, None if reported is None else computed)

    def _computed(
        self, request: CallRequest, provider: str, model: str, usage: Usage, card: RateCard | None
    ) -> int | None:
        """Returns the cost of `usage` by our prices, in nano-dollars; None when there are none.

        A service tier that was asked for, and that the answer does not mention, may or may not have been honoured: the
        dearer one counts.
        """
        if card is None:
            return None
        cost = card.cost_nanousd(usage)
        asked = "" if usage.service_tier else asked_tier(request)
        if asked:
            other = self._pricing.rate_card(provider, model, asked)
            cost = max(cost, other.cost_nanousd(usage)) if other is not None else cost
        return cost

    def unanswered(
        self,
        request: CallRequest,
        attempts: Sequence[Unanswered],
        completion_tokens: int,
        *,
        ceiling: bool,
    ) -> list[ChargedAttempt]:
        """Returns a charge for each attempt, as if it had written `completion_tokens`.

        `ceiling`: at the dearest of the model's rates, with the most that the vendor's own tools can have added.
        """
        charged = []
        for attempt in attempts:
            unseen = Usage(request.estimate_prompt_tokens_closely(), completion_tokens, estimated=True)
            if isinstance(request, MediaRequest):
                unseen = request.estimate_usage()._replace(completion_tokens=completion_tokens)
            usage = with_implied_usage(unseen, request, attempt.model)
            if ceiling:
                fees = most_fees(request, attempt.model)
                cost = self._pricing.max_cost_nanousd(
                    attempt.provider,
                    attempt.model,
                    usage.prompt_tokens + fees.prompt_tokens,
                    usage.completion_tokens,
                    fees.searches,
                    fees.file_searches,
                    request.units if isinstance(request, MediaRequest) else None,
                )
            else:
                card = self._pricing.rate_card(attempt.provider, attempt.model)
                cost = self._computed(request, attempt.provider, attempt.model, usage, card)
            charged.append(
                ChargedAttempt(
                    attempt.provider,
                    attempt.model,
                    attempt.outcome,
                    usage.prompt_tokens,
                    usage.completion_tokens,
                    cost or 0,
                    estimated=True,
                    unpriced=cost is None,
                )
            )
        return charged
