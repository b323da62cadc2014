"""The asynchronous endpoints: submit a chat completion, poll it, cancel it.

A poll costs one round trip to Redis. Clients that send back the `ETag` get an empty 304 while nothing has changed, and
`Retry-After` tells when asking again is worth it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from app.api.http import HttpRequest, HttpResponse
from app.domain.body import field_bytes, with_fields
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import Conflict, InvalidRequest, NotFound
from app.jobs.queue import estimated_wait_s, job_object
from app.providers.base import CancelToken
from app.services import Services
from app.store.job_records import JobStatus

_LONGEST_WAIT_S = 30
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_encode = msgspec.json.Encoder().encode


def submit(services: Services, caller: Caller, http_request: HttpRequest, body: bytes) -> HttpResponse:
    """202, and where to ask for the answer. `callback_url` in the body is ours, everything else is the call."""
    parsed, callback_url = _parsed(services, body)
    key = http_request.environ.get("HTTP_IDEMPOTENCY_KEY", "")
    if key and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters.", param="Idempotency-Key")
    submitted = services.queue.submit(
        caller, parsed, http_request.call_context(CancelToken()), idempotency_key=key, callback_url=callback_url
    )
    url = f"{_prefix(http_request)}/requests/{submitted.job_id}"
    job: dict[str, Any] = {"request_id": submitted.job_id, "status": "queued", "status_url": url}
    wait_s = 1
    if submitted.repeated:
        try:
            shown = services.queue.status(caller, submitted.job_id)
        except NotFound:
            raise Conflict("The request of this Idempotency-Key has ended and its result has expired.") from None
        job |= {**job_object(shown), "status_url": url}
        wait_s = retry_after_s(shown)
    headers = [("Content-Type", "application/json"), ("Location", url), ("Retry-After", str(wait_s))]
    return HttpResponse(202, headers, _encode(job))


def show(services: Services, caller: Caller, http_request: HttpRequest, job_id: str) -> HttpResponse:
    """How the job is. Raises `NotFound`."""
    seen = http_request.environ.get("HTTP_IF_NONE_MATCH", "")
    shown = services.queue.status(caller, _checked(job_id), seen)
    headers = [("ETag", shown.etag), ("Cache-Control", "private, no-cache")]
    if shown.state in ("queued", "processing"):
        headers.append(("Retry-After", str(retry_after_s(shown))))
    if shown.not_modified:
        return HttpResponse(304, headers, b"")
    headers.append(("Content-Type", "application/json"))
    return HttpResponse(200, headers, _body(shown, http_request))


def cancel(services: Services, caller: Caller, http_request: HttpRequest, job_id: str) -> HttpResponse:
    """200 when it is cancelled, 202 when its worker has been told to. Raises `NotFound`, `Conflict`."""
    shown = services.queue.cancel(caller, _checked(job_id))
    status = 200 if shown.state == "cancelled" else 202
    return HttpResponse(status, [("Content-Type", "application/json")], _body(shown, http_request))


def _parsed(services: Services, body: bytes) -> tuple[ChatRequest, str]:
    parsed = ChatRequest.parse(body)
    if parsed.stream:
        raise InvalidRequest("A queued request cannot be streamed: `stream`.", param="stream")
    given = field_bytes(body).get("callback_url")
    if given is None:
        return parsed, ""
    try:
        url = msgspec.json.decode(given, type=str | None)
    except msgspec.ValidationError:
        raise InvalidRequest("Expected a string: `callback_url`.", param="callback_url") from None
    if url is not None:
        services.callbacks.check(url)
    return ChatRequest.parse(with_fields(body, {}, drop=("callback_url",))), url or ""


def _body(shown: JobStatus, http_request: HttpRequest) -> bytes:
    job = job_object(shown)
    return _encode(
        {
            "request_id": job.pop("request_id"),
            "status": job.pop("status"),
            "status_url": f"{_prefix(http_request)}/requests/{shown.id}",
            **job,
        }
    )


def _checked(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound("There is no such request, or it has expired.")
    return job_id


def _prefix(http_request: HttpRequest) -> str:
    return "/api/v1" if http_request.environ["PATH_INFO"].startswith("/api/") else "/v1"


def retry_after_s(shown: JobStatus) -> int:
    wait_s = estimated_wait_s(shown) if shown.state == "queued" else shown.mean_duration_s
    return min(max(math.ceil(wait_s or 1), 1), _LONGEST_WAIT_S)
