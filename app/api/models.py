"""The models that a key may use: as OpenAI lists them, with a name, a description, what is known of window, prices and
capabilities, and whether a provider can serve the model."""

from __future__ import annotations

from typing import Any

from app.api import anthropic_models
from app.api.context import caller, services
from app.config.gateway import GatewayConfig
from app.config.serving import AUTO, unavailable_reason
from app.domain.suggestions import unknown_model_message
from app.errors import ModelNotFound
from app.gateway import model_picker
from app.gateway.model_facts import NOTHING_KNOWN

# OpenAI's clients want a time of creation; an alias has none, so all have the same.
_CREATED = 1_700_000_000


def list_models() -> dict[str, Any]:
    models = list_usable()
    return anthropic_models.page_of(models) if anthropic_models.is_asked() else {"object": "list", "data": models}


def get_model(model_id: str) -> dict[str, Any]:
    model = find(model_id)
    return anthropic_models.model_of(model) if anthropic_models.is_asked() else model


def list_usable() -> list[dict[str, Any]]:
    """Returns the models that the caller may use, as OpenAI describes them."""
    config = services().settings.config
    models = [_model(config, alias) for alias in config.models if caller().may_use(alias)]
    if model_picker.offers_auto(config, caller()):
        models.append(_auto(config))
    return models


def find(model_id: str) -> dict[str, Any]:
    """Returns one of them. Raises `ModelNotFound`."""
    config = services().settings.config
    if model_id == AUTO and model_picker.offers_auto(config, caller()):
        return _auto(config)
    if model_id not in config.models or not caller().may_use(model_id):
        usable = [alias for alias in config.models if caller().may_use(alias)]
        raise ModelNotFound(unknown_model_message(model_id, usable), param="model")
    return _model(config, model_id)


def _model(config: GatewayConfig, alias: str) -> dict[str, Any]:
    model = config.models[alias]
    reason = unavailable_reason(config, alias)
    return {
        "id": alias,
        "object": "model",
        "created": _CREATED,
        "owned_by": model.owned_by,
        "name": model.name or alias,
        "description": model.description,
        "max_tokens": model.max_output_tokens if model.kind == "chat" else None,
        **services().model_facts.describe(alias),
        "available": not reason,
        "reason": reason or None,
    }


def _auto(config: GatewayConfig) -> dict[str, Any]:
    """Returns the model under which the gateway picks: `available` if there is one to pick for this key."""
    usable = [model for model in model_picker.defaults(config) if caller().may_use(model)]
    reason = unavailable_reason(config, usable[0])  # models that can be served come first
    return {
        "id": AUTO,
        "object": "model",
        "created": _CREATED,
        "owned_by": "penstock",
        "name": "Auto",
        "description": "The gateway picks a model that suits the request.",
        "max_tokens": None,
        **NOTHING_KNOWN,
        "available": not reason,
        "reason": reason or None,
    }
