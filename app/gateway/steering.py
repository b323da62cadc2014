"""The step before admission: what the caller wrote becomes the call that is made.

The optimiser, when it is on, makes it cheaper; then a model takes the place of `auto`. What was done is noted in the
call's context, from where headers, row and log tell it. Everything after this step sees only the call that is made:
its limits, price and cache key are those of the model that was picked.
"""

from __future__ import annotations

import msgspec

from app.domain.chat import ChatRequest, Draft
from app.domain.config import GatewayConfig
from app.domain.identity import Caller
from app.gateway import smart
from app.gateway.call import CallContext
from app.gateway.optimizer import Optimizer
from app.gateway.router import Router
from app.gateway.smart import Choice


class Steering:
    def __init__(self, *, config: GatewayConfig, router: Router) -> None:
        self._config = config
        self._router = router
        self._wanted = smart.wanted(config.smart)
        self._alias = None if smart.ALIAS in config.models else smart.ALIAS
        self._optimizer = Optimizer(config.optimizer) if config.optimizer.enabled else None

    def steer(self, caller: Caller, request: ChatRequest, context: CallContext) -> tuple[ChatRequest, CallContext]:
        """Raises `Forbidden` when the key may use no model that could be picked, and what `Router.route` raises."""
        picks = context.smart or request.model == self._alias
        if not picks and self._optimizer is None:
            return request, context
        draft = Draft(request)
        notes = []
        done = self._optimizer.optimize(draft) if self._optimizer is not None else ""
        if picks:
            choice = self._choice(draft, caller)
            draft.set("model", choice.model)
            notes.append(("route", choice.reason))
        if done:
            notes.append(("optimized", done))
        return draft.request, msgspec.structs.replace(context, notes=tuple(notes)) if notes else context

    def _choice(self, draft: Draft, caller: Caller) -> Choice:
        otherwise = smart.default(self._config)
        named = draft.request.model
        if named != smart.ALIAS:  # only /chat/smart: the caller's own default
            self._router.route(named, caller)
            otherwise = Choice(named, "named")
        facts = smart.facts_of(draft, caller.plan, self._wanted)
        return smart.pick(self._config.smart.rules, otherwise, facts, caller)
