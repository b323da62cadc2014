"""Preprocessing of calls before admission: default model, optimizer, and the model that replaces `auto`.

What was done is noted in the call's context, from where headers, row and log report it. Every later step sees only the
changed request: limits, price and cache key are those of the model that was picked.
"""

from __future__ import annotations

import msgspec

from app.config.gateway import GatewayConfig
from app.config.serving import AUTO, chat_models, models_of_kind
from app.domain.body import missing_field
from app.domain.chat import ChatRequest, Draft
from app.domain.generation import GenerationRequest
from app.domain.identity import Caller
from app.domain.media import MediaRequest
from app.errors import InvalidRequest
from app.gateway import model_picker
from app.gateway.call import CallContext
from app.gateway.model_picker import Pick
from app.gateway.optimizer import Optimizer
from app.gateway.router import Router


class Preprocessor:
    """Fills in the model of a chat request, and lets the optimizer change the rest, as the configuration says."""

    def __init__(self, *, config: GatewayConfig, router: Router) -> None:
        self._config = config
        self._router = router
        self._defaults = chat_models(config, config.default_model)
        self._smart_defaults = model_picker.defaults(config)
        self._rules = model_picker.active_rules(config)
        self._content_kinds = model_picker.content_kinds(config.smart)
        self._auto = None if AUTO in config.models else AUTO  # a configured model may have the name
        self._optimizer = Optimizer(config.optimizer) if config.optimizer.enabled else None

    def preprocess_media(self, caller: Caller, request: MediaRequest) -> MediaRequest:
        """Returns the request with a model: the first of its kind that the key may use, one that is served if any is.

        Raises `InvalidRequest` when there is none.
        """
        if request.model:
            return request
        usable = [model for model in models_of_kind(self._config, request.kind) if caller.may_use(model)]
        if not usable:
            raise missing_field("model")
        return request.with_model(usable[0])

    def preprocess(
        self, caller: Caller, request: GenerationRequest, context: CallContext
    ) -> tuple[GenerationRequest, CallContext]:
        """Returns the request as it will be made, and the context with notes of what was changed.

        Raises `Forbidden` when the key may use no model that could be picked, `InvalidRequest` when there is no default
        model for it, and what `Router.route` raises.
        """
        named = request.model or (AUTO if context.smart else self._default(caller))
        is_auto = context.smart or named == self._auto
        if request.model and not is_auto and self._optimizer is None:
            return request, context
        notes = []
        optimized = ""
        if self._optimizer is not None and isinstance(request, ChatRequest):
            draft = Draft(request)
            optimized = self._optimizer.optimize(draft)
            request = draft.request
        if is_auto:
            pick = self._pick(request, named, caller)
            request = request.with_model(pick.model)
            notes.append(("route", pick.reason))
        elif not request.model:
            request = request.with_model(named)
        if optimized:
            notes.append(("optimized", optimized))
        return request, msgspec.structs.replace(context, notes=tuple(notes)) if notes else context

    def _default(self, caller: Caller) -> str:
        for model in self._defaults:
            if caller.may_use(model):
                return model
        raise InvalidRequest("There is no default model for this API key: name one in `model`.", param="model")

    def _pick(self, request: GenerationRequest, named: str, caller: Caller) -> Pick:
        default = next((Pick(model, "default") for model in self._smart_defaults if caller.may_use(model)), None)
        if named != AUTO:  # only /chat/smart: the caller's own default
            self._router.route(named, caller)
            default = Pick(named, "named")
        facts = model_picker.collect_facts(request, caller.plan, self._content_kinds)
        return model_picker.pick(self._rules, default, facts, caller)
