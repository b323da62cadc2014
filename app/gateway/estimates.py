"""Estimates: a call's likely usage, and the most that it can cost. Reserved before anything is spent."""

from __future__ import annotations

from typing import NamedTuple

from app.domain.chat import ChatRequest, EmbedRequest
from app.domain.limits import Amounts
from app.domain.usage import Usage
from app.errors import Forbidden
from app.gateway.implied_usage import billed, most_searches
from app.gateway.pricing import Pricing
from app.gateway.routes import Route


class Estimate(NamedTuple):
    reserve: Amounts  # tokens as likely; money as the most that any target can charge, where it is limited
    if_lost: Amounts  # what an attempt costs whose answer nobody saw


class Estimates:
    """`completion_tokens`: how long an answer is taken to be when the caller sets no bound."""

    def __init__(self, *, pricing: Pricing, completion_tokens: int) -> None:
        self._pricing = pricing
        self._completion_tokens = completion_tokens

    def of(self, route: Route, request: ChatRequest | EmbedRequest, *, has_budget: bool) -> Estimate:
        """Raises `Forbidden` when money is limited and a target's price is unknown (docs/clients.md, bug 6)."""
        prompt = request.prompt_estimate()
        likely = lost = most = 0
        tier = ""
        if isinstance(request, ChatRequest):
            tier = request.service_tier or ""
            bound = bound_of(route, request)
            asked = self._completion_tokens if request.max_output_tokens is None else bound
            likely = min(asked, route.max_output_tokens) * request.choices
            most = request.completion_ceiling(bound)
            # Whoever has only so much to spend is charged for an unseen answer the most that it can have been.
            lost = most if has_budget else likely
        first = route.all_targets[0]
        provider, model = first.provider.name, first.model
        unseen = billed(Usage(prompt, lost), request, model)
        if not has_budget:
            card = self._pricing.card(provider, model, tier)
            cost = card.cost_nanousd(unseen) if card is not None else 0
            return Estimate(Amounts(1, prompt + likely), Amounts(1, prompt + lost, cost))
        ceiling = self._ceiling(route, request, most)
        cost = self._pricing.ceiling_nanousd(provider, model, prompt, lost, unseen.searches) or 0
        return Estimate(Amounts(1, prompt + likely, ceiling), Amounts(1, prompt + lost, cost))

    def _ceiling(self, route: Route, request: ChatRequest | EmbedRequest, completion_tokens: int) -> int:
        most, prompt_tokens = 0, request.prompt_ceiling()
        for target in route.all_targets:
            provider, model, searches = target.provider.name, target.model, most_searches(request, target.model)
            cost = self._pricing.ceiling_nanousd(provider, model, prompt_tokens, completion_tokens, searches)
            if cost is None:
                raise Forbidden(
                    "The model has no known price, and your plan has a budget. Its price can be set in prices.yaml.",
                    param="model",
                )
            most = max(most, cost)
        return most


def bound_of(route: Route, request: ChatRequest) -> int:
    """The most tokens that each choice of the answer may have: the caller's bound, or the model's."""
    return route.max_output_tokens if request.max_output_tokens is None else request.max_output_tokens
