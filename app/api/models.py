"""The models that a key may use: as OpenAI lists them, with a name, a description, the longest answer, and whether
somebody can serve the model."""

from __future__ import annotations

from typing import Any

from app.api.context import caller, services
from app.config.gateway import GatewayConfig
from app.config.serving import AUTO, why_not
from app.domain.suggestions import unknown_model
from app.errors import ModelNotFound
from app.gateway import model_picker

# OpenAI's clients want a time of creation; an alias has none, so all have the same.
_CREATED = 1_700_000_000


def list_models() -> dict[str, Any]:
    config = services().settings.config
    models = [_model(config, alias) for alias in config.models if caller().may_use(alias)]
    if model_picker.is_open(config, caller()):
        models.append(_auto(config))
    return {"object": "list", "data": models}


def get_model(model_id: str) -> dict[str, Any]:
    config = services().settings.config
    if model_id == AUTO and model_picker.is_open(config, caller()):
        return _auto(config)
    if model_id not in config.models or not caller().may_use(model_id):
        usable = [alias for alias in config.models if caller().may_use(alias)]
        raise ModelNotFound(unknown_model(model_id, usable), param="model")
    return _model(config, model_id)


def _model(config: GatewayConfig, alias: str) -> dict[str, Any]:
    model = config.models[alias]
    reason = why_not(config, alias)
    return {
        "id": alias,
        "object": "model",
        "created": _CREATED,
        "owned_by": model.owned_by,
        "name": model.name or alias,
        "description": model.description,
        "max_tokens": model.max_output_tokens if model.kind == "chat" else None,
        "available": not reason,
        "reason": reason or None,
    }


def _auto(config: GatewayConfig) -> dict[str, Any]:
    """The gateway picks: `available` if there is anything to pick for this key."""
    usable = [model for model in model_picker.defaults(config) if caller().may_use(model)]
    reason = why_not(config, usable[0])  # what can be served comes first
    return {
        "id": AUTO,
        "object": "model",
        "created": _CREATED,
        "owned_by": "penstock",
        "name": "Auto",
        "description": "The gateway picks a model that suits the request.",
        "max_tokens": None,
        "available": not reason,
        "reason": reason or None,
    }
