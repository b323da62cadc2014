"""Batches as OpenAI's clients know them. Workers run them; here they are asked for, shown and cancelled."""

from __future__ import annotations

import json
from typing import Any

from flask import request

from app.api.context import caller, check_scope, services
from app.api.errors import unsupported_media_type
from app.api.pagination import after, limit, page
from app.api.request_body import read_body
from app.domain.batch import BatchRequest
from app.domain.identity import Scope
from app.errors import RequestTooLarge
from app.store.batches import Batch

_LISTED, _MOST_LISTED = 20, 100
_MOST_BYTES = 65_536
_TIMES = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def create_batch() -> dict[str, Any]:
    """Raises `InvalidRequest`, `Conflict`."""
    if request.mimetype != "application/json":
        raise unsupported_media_type("application/json", request.content_type or "")
    # Room for what is asked here, not for a prompt.
    body = read_body(request.stream, _MOST_BYTES + 1, services().settings.config.server.body_timeout_s)
    if len(body) > _MOST_BYTES:
        raise RequestTooLarge("The request body is too large.")
    asked = BatchRequest.parse(body)
    if asked.endpoint == "/v1/embeddings":
        check_scope(caller(), Scope.EMBED)
    return described(services().batches.create(caller(), asked))


def list_batches() -> dict[str, Any]:
    found, more = services().batches.list(caller().key_id, limit=limit(_LISTED, _MOST_LISTED), after=after())
    return page([described(batch) for batch in found], more)


def retrieve_batch(batch_id: str) -> dict[str, Any]:
    return described(services().batches.get(caller().key_id, batch_id))


def cancel_batch(batch_id: str) -> dict[str, Any]:
    return described(services().batches.cancel(caller().key_id, batch_id))


def described(batch: Batch) -> dict[str, Any]:
    """As OpenAI shows it."""
    errors = None if batch.errors is None else {"object": "list", "data": json.loads(batch.errors)}
    times = {name: getattr(batch, name) for name in _TIMES}
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        **{name: None if moment is None else int(moment) for name, moment in times.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": None if batch.metadata is None else json.loads(batch.metadata),
    }
