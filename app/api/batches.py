"""OpenAI's batch endpoints: create, list, retrieve, cancel. The batches themselves are run by workers."""

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

_DEFAULT_LIMIT, _MAX_LIMIT = 20, 100
_MAX_BODY_BYTES = 65_536
_TIMESTAMPS = (
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
    """Creates a batch. Raises `InvalidRequest`, `Conflict`."""
    if request.mimetype != "application/json":
        raise unsupported_media_type("application/json", request.content_type or "")
    # A batch's fields, not a prompt.
    body = read_body(request.stream, _MAX_BODY_BYTES + 1, services().settings.config.server.body_timeout_s)
    if len(body) > _MAX_BODY_BYTES:
        raise RequestTooLarge("The request body is too large.")
    batch_request = BatchRequest.parse(body)
    if batch_request.endpoint == "/v1/embeddings":
        check_scope(caller(), Scope.EMBED)
    return batch_object(services().batches.create(caller(), batch_request))


def list_batches() -> dict[str, Any]:
    found, has_more = services().batches.list(caller().key_id, limit=limit(_DEFAULT_LIMIT, _MAX_LIMIT), after=after())
    return page([batch_object(batch) for batch in found], has_more)


def retrieve_batch(batch_id: str) -> dict[str, Any]:
    return batch_object(services().batches.get(caller().key_id, batch_id))


def cancel_batch(batch_id: str) -> dict[str, Any]:
    return batch_object(services().batches.cancel(caller().key_id, batch_id))


def batch_object(batch: Batch) -> dict[str, Any]:
    """Returns a batch as OpenAI shows it."""
    errors = None if batch.errors is None else {"object": "list", "data": json.loads(batch.errors)}
    timestamps = {name: getattr(batch, name) for name in _TIMESTAMPS}
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
        **{name: None if moment is None else int(moment) for name, moment in timestamps.items()},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": None if batch.metadata is None else json.loads(batch.metadata),
    }
