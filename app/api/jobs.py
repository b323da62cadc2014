"""The asynchronous endpoints: submit a chat completion, poll it, cancel it.

A poll costs one round trip to Redis. Clients that send back the `ETag` get an empty 304 while nothing has changed, and
`Retry-After` tells when the next poll is worth it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from app.api.http import HttpRequest, HttpResponse
from app.domain.body import decode_fields, replace_fields
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import Conflict, InvalidRequest, NotFound
from app.jobs.queue import estimated_wait_s, job_object
from app.providers.base import CancelToken
from app.services import Services
from app.store.job_records import JobStatus

_MAX_RETRY_AFTER_S = 30
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_encode = msgspec.json.Encoder().encode


def submit(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """Queues a call: 202 with the URL to poll. `callback_url` in the body is ours, everything else is the call."""
    request, callback_url = _parse(services, body)
    key = http_request.environ.get("HTTP_IDEMPOTENCY_KEY", "")
    if key and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters.", param="Idempotency-Key")
    submitted = services.queue.submit(
        caller, request, http_request.call_context(CancelToken()), idempotency_key=key, callback_url=callback_url
    )
    url = f"{_prefix(http_request)}/requests/{submitted.job_id}"
    fields: dict[str, Any] = {"request_id": submitted.job_id, "status": "queued", "status_url": url}
    wait_s = 1
    if submitted.repeated:
        try:
            job = services.queue.status(caller, submitted.job_id)
        except NotFound:
            raise Conflict("The request of this Idempotency-Key has ended and its result has expired.") from None
        fields |= {**job_object(job), "status_url": url}
        wait_s = retry_after_s(job)
    headers = [("Content-Type", "application/json"), ("Location", url), ("Retry-After", str(wait_s))]
    return HttpResponse(202, headers, _encode(fields))


def show(services: Services, caller: Caller, http_request: HttpRequest, job_id: str) -> HttpResponse:
    """Returns the job's state, and its result once it has one. Raises `NotFound`."""
    known_etag = http_request.environ.get("HTTP_IF_NONE_MATCH", "")
    job = services.queue.status(caller, _valid_id(job_id), known_etag)
    headers = [("ETag", job.etag), ("Cache-Control", "private, no-cache")]
    if job.state in ("queued", "processing"):
        headers.append(("Retry-After", str(retry_after_s(job))))
    if job.not_modified:
        return HttpResponse(304, headers, b"")
    headers.append(("Content-Type", "application/json"))
    return HttpResponse(200, headers, _job_body(job, http_request))


def cancel(services: Services, caller: Caller, http_request: HttpRequest, job_id: str) -> HttpResponse:
    """Cancels a job: 200 when that is done, 202 when its worker has been told to. Raises `NotFound`, `Conflict`."""
    job = services.queue.cancel(caller, _valid_id(job_id))
    status = 200 if job.state == "cancelled" else 202
    return HttpResponse(status, [("Content-Type", "application/json")], _job_body(job, http_request))


def _parse(services: Services, body: bytes) -> tuple[ChatRequest, str]:
    parsed = ChatRequest.parse(body)
    if parsed.stream:
        raise InvalidRequest("A queued request cannot be streamed: `stream`.", param="stream")
    encoded_url = decode_fields(body).get("callback_url")
    if encoded_url is None:
        return parsed, ""
    try:
        url = msgspec.json.decode(encoded_url, type=str | None)
    except msgspec.ValidationError:
        raise InvalidRequest("Expected a string: `callback_url`.", param="callback_url") from None
    if url is not None:
        services.callbacks.check(url)
    return ChatRequest.parse(replace_fields(body, {}, drop=("callback_url",))), url or ""


def _job_body(job: JobStatus, http_request: HttpRequest) -> bytes:
    fields = job_object(job)
    return _encode(
        {
            "request_id": fields.pop("request_id"),
            "status": fields.pop("status"),
            "status_url": f"{_prefix(http_request)}/requests/{job.id}",
            **fields,
        }
    )


def _valid_id(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound("There is no such request, or it has expired.")
    return job_id


def _prefix(http_request: HttpRequest) -> str:
    return "/api/v1" if http_request.environ["PATH_INFO"].startswith("/api/") else "/v1"


def retry_after_s(job: JobStatus) -> int:
    """Returns the seconds after which the job is likely to have come further."""
    wait_s = estimated_wait_s(job) if job.state == "queued" else job.mean_duration_s
    return min(max(math.ceil(wait_s or 1), 1), _MAX_RETRY_AFTER_S)
