"""Estimates of what a call will use and the most that it can cost: reserved at admission, before anything is spent."""

from __future__ import annotations

from typing import NamedTuple

from app.domain.generation import GenerationRequest
from app.domain.limits import Amounts
from app.domain.media import MediaRequest
from app.domain.printable import printable
from app.domain.requests import CallRequest
from app.domain.usage import Details, Usage
from app.errors import Forbidden
from app.gateway.implied_usage import asked_tier, most_fees, with_implied_usage
from app.gateway.pricing import Pricing
from app.gateway.routes import Route


class Estimate(NamedTuple):
    """The amounts that admission reserves for a call, and those charged for an attempt without an answer."""

    reserve: Amounts  # tokens as likely; money, only for callers with a budget, as the most that any target can charge
    if_lost: Amounts


class Estimator:
    """Estimates calls. `completion_tokens` is the assumed length of an answer when the caller sets no bound."""

    def __init__(self, *, pricing: Pricing, completion_tokens: int) -> None:
        self._pricing = pricing
        self._completion_tokens = completion_tokens

    def estimate(self, route: Route, request: CallRequest, *, has_budget: bool) -> Estimate:
        """Returns the estimate for a call.

        Raises `Forbidden` when the caller has a budget and a target's price is unknown (docs/clients.md, bug 6).
        """
        prompt = request.estimate_prompt_tokens()
        likely = lost = most = 0
        if isinstance(request, GenerationRequest):
            bound = output_tokens_bound(route, request)
            expected = self._completion_tokens if request.max_output_tokens is None else bound
            likely = min(expected, route.max_output_tokens) * request.choices
            most = request.completion_tokens_upper_bound(bound)
            # A caller with a budget is charged the most that an unseen answer can have been.
            lost = most if has_budget else likely
        elif isinstance(request, MediaRequest):
            likely = request.estimate_usage().completion_tokens
            most = request.completion_tokens_upper_bound(route.max_output_tokens)
            lost = most if has_budget else likely
        first = route.all_targets[0]
        provider, model = first.provider.name, first.model
        unseen = with_implied_usage(Usage(prompt, lost, details=units_of(request)), request, model)
        if not has_budget:
            card = self._pricing.rate_card(provider, model, asked_tier(request))
            cost = card.cost_nanousd(unseen) if card is not None else 0
            return Estimate(Amounts(1, prompt + likely), Amounts(1, prompt + lost, cost))
        max_cost = self._max_cost_nanousd(route, request, most)
        units = units_of(request)
        cost = self._pricing.max_cost_nanousd(provider, model, prompt, lost, unseen.searches, units=units) or 0
        return Estimate(Amounts(1, prompt + likely, max_cost), Amounts(1, prompt + lost, cost))

    def _max_cost_nanousd(self, route: Route, request: CallRequest, completion_tokens: int) -> int:
        most, prompt_tokens = 0, request.prompt_tokens_upper_bound()
        for target in route.all_targets:
            translated = isinstance(request, GenerationRequest) and not target.passes(request.dialect)
            fees = most_fees(request, target.model, translated=translated)
            if fees.unknown:
                raise Forbidden(
                    f"The price of `{printable(fees.unknown)[:64]}` is unknown, and your plan has a budget.",
                    param="tools",
                )
            cost = self._pricing.max_cost_nanousd(
                target.provider.name,
                target.model,
                prompt_tokens + fees.prompt_tokens,
                completion_tokens,
                fees.searches,
                fees.file_searches,
                units_of(request),
            )
            if cost is None:
                raise Forbidden(
                    "The model has no known price, and your plan has a budget. Its price can be set in prices.yaml.",
                    param="model",
                )
            most = max(most, cost)
        return most


def units_of(request: CallRequest) -> Details | None:
    """Returns what the call is billed by besides tokens; None for a prompt, where that is not known."""
    return request.units if isinstance(request, MediaRequest) else None


def output_tokens_bound(route: Route, request: GenerationRequest) -> int:
    """Returns the most tokens that each choice of the answer may have: the caller's bound, or else the model's."""
    return route.max_output_tokens if request.max_output_tokens is None else request.max_output_tokens
