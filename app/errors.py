"""Error tree: each way in which a call can fail, with its HTTP status, OpenAI's `type` and a stable machine `code`.

    GatewayError                    500 INTERNAL_ERROR
    ├── InvalidRequest              400 INVALID_REQUEST         the caller's input; `param` names the field
    │   ├── Untranslatable          400 INVALID_REQUEST         no word for it in the dialect of the model's vendor
    │   ├── RequestTooLarge         413 REQUEST_TOO_LARGE
    │   ├── UnsupportedMediaType    415 UNSUPPORTED_MEDIA_TYPE
    │   ├── MethodNotAllowed        405 INVALID_REQUEST
    │   │   └── UpgradeRefused      426 INVALID_REQUEST         a WebSocket was asked for
    │   ├── Conflict                409 INVALID_REQUEST         not in the state that the request is about
    │   └── ContextOverflow         400 CONTEXT_LENGTH_EXCEEDED the prompt is longer than the model's context window
    ├── InvalidApiKey               401 INVALID_API_KEY
    ├── Forbidden                   403 FORBIDDEN
    ├── NotFound                    404 NOT_FOUND
    │   └── ModelNotFound           404 MODEL_NOT_FOUND
    ├── RateLimited                 429 RATE_LIMIT_EXCEEDED
    │   └── BudgetExceeded          429 BUDGET_EXCEEDED
    ├── NotReady                    503 NOT_READY
    │   ├── StoreUnavailable        503 NOT_READY               Redis or the database does not answer
    │   │   └── StatementTimeout    503 NOT_READY               a query takes longer than it may
    │   └── QueueFull               503 QUEUE_FULL
    ├── UpstreamError               502 MODEL_ERROR             a provider failed
    │   ├── UpstreamUnavailable     503 MODEL_UNAVAILABLE       refused, overloaded, rate limited, breaker open
    │   │   └── ProviderWithoutKey  503 MODEL_UNAVAILABLE       the gateway has no key for the provider
    │   ├── UpstreamTimeout         504 TIMEOUT
    │   │   └── QueueTimeout        504 TIMEOUT                 a job waited longer than the queue allows
    │   └── UpstreamRejected        400 INVALID_REQUEST         the provider refused the caller's own input
    │       └── UpstreamOverflow    400 CONTEXT_LENGTH_EXCEEDED the prompt is too long for the provider's model
    ├── ClientGone                  499 CLIENT_CLOSED_REQUEST   the client hung up: there is nobody to answer
    ├── CallbackUndelivered         500 INTERNAL_ERROR          never answered with: the delivery is tried again
    └── ConfigError                 500 INTERNAL_ERROR          a setting is missing or wrong: stops the start

Only `api/` turns these into HTTP. A class of this tree stands nowhere else.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class GatewayError(Exception):
    """Base of the tree. `message` is shown to the caller: never put a secret or an upstream body in it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "INTERNAL_ERROR"
    # What `x-should-retry` tells the SDKs; None leaves it to the status. An instance may know better than its class.
    should_retry: bool | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "INVALID_REQUEST"


class Untranslatable(InvalidRequest):
    """The request says something that the target's dialect has no word for. `param` is its path in the request.

    Another target of the model may have one: the router goes on to it.
    """


class ContextOverflow(InvalidRequest):
    """The prompt cannot fit into the model's context window: it has `tokens`, and `maximum` would fit."""

    code = "CONTEXT_LENGTH_EXCEEDED"

    def __init__(self, tokens: int, maximum: int) -> None:
        super().__init__(_overflow_message(tokens, maximum))
        self.tokens = tokens
        self.maximum = maximum


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "REQUEST_TOO_LARGE"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class MethodNotAllowed(InvalidRequest):
    status = 405


class UpgradeRefused(MethodNotAllowed):
    """The client asks for a WebSocket. Codex goes on over HTTP after this status, and tries again after others."""

    status = 426


class Conflict(InvalidRequest):
    status = 409
    # The SDKs repeat a 409, and would get it again.
    should_retry = False


class InvalidApiKey(GatewayError):
    status = 401
    type = "authentication_error"
    code = "INVALID_API_KEY"
    # Claude Code repeats a 401 for minutes.
    should_retry = False


class Forbidden(GatewayError):
    status = 403
    type = "permission_error"
    code = "FORBIDDEN"


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "NOT_FOUND"


class ModelNotFound(NotFound):
    code = "MODEL_NOT_FOUND"


class Remaining(msgspec.Struct, frozen=True):
    """The state of one limit after a call: `left` of `most`; `reset_s` is when it is full again."""

    limit: str
    unit: str
    most: int
    left: int
    reset_s: float


class RateLimited(GatewayError):
    """A limit of the caller's plan refused the call.

    `limit` is the plan's field name, also the metric label; `remaining` what is left of each limit of the plan;
    `retryable` whether the same call may pass later.
    """

    status = 429
    type = "rate_limit_error"
    code = "RATE_LIMIT_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        retry_after_s: float,
        retryable: bool = True,
        remaining: tuple[Remaining, ...] = (),
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit
        self.retryable = retryable
        self.remaining = remaining


class BudgetExceeded(RateLimited):
    type = "insufficient_quota"
    code = "BUDGET_EXCEEDED"


class NotReady(GatewayError):
    status = 503
    code = "NOT_READY"


class StoreUnavailable(NotReady):
    """Redis or the database failed or did not answer in time.

    `perhaps_done`: the command was sent and got no answer, so it may have been carried out.
    """

    perhaps_done = False


class StatementTimeout(StoreUnavailable):
    """A query took longer than it may. The database is up."""


class QueueFull(NotReady):
    code = "QUEUE_FULL"


class UpstreamError(GatewayError):
    """A provider failed. `kind` is from a closed vocabulary (the metric label):

    connect, tls, resolve, timeout_connect, timeout_first_byte, timeout_idle, timeout_total, status_4xx,
    status_5xx, rate_limited, auth, not_found, bad_body, cut, stream_error, rejected, breaker_open, closed, saturated
    (our own: connections, descriptors, ports or resolver threads are used up; the provider was not asked), no_key.

    `retry_here` says whether the same target may be tried again, `fall_back` whether another one may. `billable`: the
    request was sent whole and no refusal came back, so that the provider may have worked, and bills it.

    `native` is the vendor's own error, clean of secrets, where the caller may see it: the body of its answer with the
    status `upstream_status`, or the data of an event. Only a caller of the dialect `native_dialect` is shown it.
    """

    native: bytes = b""
    native_dialect: str = ""

    status = 502
    code = "MODEL_ERROR"
    retry_here: ClassVar[bool] = True
    fall_back: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        kind: str,
        upstream_status: int | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        billable: bool = False,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.provider = provider
        self.kind = kind
        self.upstream_status = upstream_status
        self.billable = billable


class UpstreamUnavailable(UpstreamError):
    status = 503
    code = "MODEL_UNAVAILABLE"


class ProviderWithoutKey(UpstreamUnavailable):
    """No provider of the model has an API key, so none was asked. The operator can set one."""

    should_retry = False
    retry_here = False
    fall_back = False


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "TIMEOUT"
    # Waiting as long again on the same target would double the caller's wait.
    retry_here = False


class QueueTimeout(UpstreamTimeout):
    """A job waited longer than the queue allows. No provider was asked, and no later attempt will be."""

    fall_back = False


class UpstreamRejected(UpstreamError):
    """The provider refused the request itself (its 400 or 422): every target would."""

    status = 400
    type = "invalid_request_error"
    code = "INVALID_REQUEST"
    retry_here = False
    fall_back = False


class UpstreamOverflow(UpstreamRejected):
    """The provider says that the prompt does not fit: a `ContextOverflow` whose numbers are None where it has none."""

    code = "CONTEXT_LENGTH_EXCEEDED"

    def __init__(self, tokens: int | None, maximum: int | None, *, provider: str, upstream_status: int) -> None:
        message = _overflow_message(tokens, maximum)
        super().__init__(message, provider=provider, kind="rejected", upstream_status=upstream_status)
        self.tokens = tokens
        self.maximum = maximum


class ClientGone(GatewayError):
    """The client hung up; nothing can be sent. 499 is nginx's status for it. `billable` as for `UpstreamError`."""

    status = 499
    code = "CLIENT_CLOSED_REQUEST"

    def __init__(self, message: str, *, billable: bool = False) -> None:
        super().__init__(message)
        self.billable = billable


class CallbackUndelivered(GatewayError):
    """A callback's receiver could not be reached or did not answer with 2xx. Another try may help."""


class ConfigError(GatewayError):
    """A setting is missing or wrong. The message is one line: file, path of the field, what is expected."""


def _overflow_message(tokens: int | None, maximum: int | None) -> str:
    """Returns the wording that coding agents look for, to make a conversation shorter."""
    if tokens is None or maximum is None:
        return "prompt is too long: it exceeds the context window of the model"
    return f"prompt is too long: {tokens} tokens > {maximum} maximum"
