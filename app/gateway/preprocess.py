"""The step before admission: what the caller wrote becomes the call that is made.

A call that names no model gets the default one. The optimiser, when it is on, makes it cheaper; then a model takes the
place of `auto`. What was done is noted in the call's context, from where headers, row and log tell it. Everything after
this step sees only the call that is made: its limits, price and cache key are those of the model that was picked.
"""

from __future__ import annotations

import msgspec

from app.config.gateway import GatewayConfig
from app.config.serving import AUTO, chat_models
from app.domain.chat import ChatRequest, Draft
from app.domain.identity import Caller
from app.errors import InvalidRequest
from app.gateway import model_picker
from app.gateway.call import CallContext
from app.gateway.model_picker import Pick
from app.gateway.optimizer import Optimizer
from app.gateway.router import Router


class Preprocessor:
    def __init__(self, *, config: GatewayConfig, router: Router) -> None:
        self._router = router
        self._defaults = chat_models(config, config.default_model)
        self._smart_defaults = model_picker.defaults(config)
        self._rules = model_picker.active_rules(config)
        self._wanted = model_picker.content_kinds(config.smart)
        self._alias = None if AUTO in config.models else AUTO
        self._optimizer = Optimizer(config.optimizer) if config.optimizer.enabled else None

    def steer(self, caller: Caller, request: ChatRequest, context: CallContext) -> tuple[ChatRequest, CallContext]:
        """Raises `Forbidden` when the key may use no model that could be picked, `InvalidRequest` when there is no
        default for it, and what `Router.route` raises."""
        named = request.model or (AUTO if context.smart else self._default(caller))
        picks = context.smart or named == self._alias
        if request.model and not picks and self._optimizer is None:
            return request, context
        draft = Draft(request)
        notes = []
        done = self._optimizer.optimize(draft) if self._optimizer is not None else ""
        if picks:
            choice = self._choice(draft, named, caller)
            draft.set("model", choice.model)
            notes.append(("route", choice.reason))
        elif not request.model:
            draft.set("model", named)
        if done:
            notes.append(("optimized", done))
        return draft.request, msgspec.structs.replace(context, notes=tuple(notes)) if notes else context

    def _default(self, caller: Caller) -> str:
        for model in self._defaults:
            if caller.may_use(model):
                return model
        raise InvalidRequest("There is no default model for this API key: name one in `model`.", param="model")

    def _choice(self, draft: Draft, named: str, caller: Caller) -> Pick:
        otherwise = next((Pick(model, "default") for model in self._smart_defaults if caller.may_use(model)), None)
        if named != AUTO:  # only /chat/smart: the caller's own default
            self._router.route(named, caller)
            otherwise = Pick(named, "named")
        facts = model_picker.collect_facts(draft, caller.plan, self._wanted)
        return model_picker.pick(self._rules, otherwise, facts, caller)
