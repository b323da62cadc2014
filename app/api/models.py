"""The models that a key may use, as OpenAI lists them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from app.api.context import caller, require, services
from app.domain.identity import Scope
from app.domain.misspelt import unknown_model
from app.errors import ModelNotFound
from app.gateway import smart

bp = Blueprint("models", __name__)
# OpenAI's clients want a time of creation; an alias has none, so all have the same.
_CREATED = 1_700_000_000
_OURS = "penstock"


@bp.get("/models")
@require(Scope.CHAT)
def list_models() -> dict[str, Any]:
    config = services().settings.config
    models = [_model(alias, model.owned_by) for alias, model in config.models.items() if caller().may_use(alias)]
    if smart.is_open(config, caller()):
        models.append(_model(smart.ALIAS, _OURS))
    return {"object": "list", "data": models}


@bp.get("/models/<path:model_id>")
@require(Scope.CHAT)
def get_model(model_id: str) -> dict[str, Any]:
    config = services().settings.config
    if model_id == smart.ALIAS and smart.is_open(config, caller()):
        return _model(smart.ALIAS, _OURS)
    model = config.models.get(model_id)
    if model is None or not caller().may_use(model_id):
        usable = [alias for alias in config.models if caller().may_use(alias)]
        raise ModelNotFound(unknown_model(model_id, usable), param="model")
    return _model(model_id, model.owned_by)


def _model(alias: str, owned_by: str) -> dict[str, Any]:
    return {"id": alias, "object": "model", "created": _CREATED, "owned_by": owned_by}
