"""A batch's lines, in and out, and what a batch may be asked for: OpenAI's Batch API, parsed once.

Source of shapes and codes: OpenAI API reference, "Create batch", "The request input object", "The request output
object", and the batch guide. A line that cannot be used fails alone; OpenAI fails the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from app.domain.body import decode_body
from app.domain.chat import ChatRequest, EmbedRequest
from app.errors import GatewayError, InvalidRequest

Endpoint = Literal["/v1/chat/completions", "/v1/embeddings"]
UNFINISHED_STATUSES = ("validating", "in_progress", "finalizing", "cancelling")
COMPLETION_WINDOW_S = 86_400
_SHORTEST_TTL_S, _LONGEST_TTL_S = 3_600, 2_592_000
_encode = msgspec.json.Encoder().encode


class ExpiresAfter(msgspec.Struct, frozen=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=_SHORTEST_TTL_S, le=_LONGEST_TTL_S)]


_MetaName = Annotated[str, msgspec.Meta(max_length=64)]
_MetaText = Annotated[str, msgspec.Meta(max_length=512)]


class BatchRequest(msgspec.Struct, frozen=True):
    """The body of `POST /batches`."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[_MetaName, _MetaText], msgspec.Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None

    @classmethod
    def parse(cls, raw: bytes) -> BatchRequest:
        """Raises `InvalidRequest` with `param` naming the field."""
        request = decode_body(_REQUEST, raw)
        if "\x00" in request.input_file_id:  # PostgreSQL refuses to compare it
            raise InvalidRequest("`input_file_id` must not contain NUL characters.", param="input_file_id")
        return request


class BatchLine(NamedTuple):
    """A line that can be run."""

    number: int  # from 1
    custom_id: str
    request: ChatRequest | EmbedRequest


class InvalidBatchLine(NamedTuple):
    """A line that cannot. `error`: the endpoint itself would have said so."""

    number: int
    custom_id: str | None
    code: str
    message: str
    param: str | None = None
    error: GatewayError | None = None


class _Line(msgspec.Struct, frozen=True):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _Named(msgspec.Struct, frozen=True):
    custom_id: Any = None


def parse_expires_after(fields: Mapping[str, object]) -> ExpiresAfter:
    """Of a form, whose numbers are text. Raises `InvalidRequest`."""
    try:
        return msgspec.convert(fields, ExpiresAfter, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"{exc}: `expires_after`.", param="expires_after") from None


_REQUEST = msgspec.json.Decoder(BatchRequest)
_LINE = msgspec.json.Decoder(_Line)
_NAMED = msgspec.json.Decoder(_Named)


def parse_line(number: int, raw: bytes, endpoint: str) -> BatchLine | InvalidBatchLine:
    try:
        line = _LINE.decode(raw)
    except msgspec.ValidationError as exc:
        return InvalidBatchLine(number, _custom_id(raw), "invalid_line", f"This line is not a request: {exc}.")
    except (ValueError, RecursionError):
        return InvalidBatchLine(number, None, "invalid_json_line", "This line is not parseable as valid JSON.")
    if line.method != "POST":
        return InvalidBatchLine(number, line.custom_id, "invalid_method", "The method must be POST.", "method")
    if line.url != endpoint:
        return InvalidBatchLine(
            number, line.custom_id, "url_mismatch", f"The url must be the batch's: {endpoint}.", "url"
        )
    try:
        return BatchLine(number, line.custom_id, _request(endpoint, bytes(line.body)))
    except GatewayError as exc:
        return InvalidBatchLine(number, line.custom_id, "invalid_request", exc.message, exc.param, exc)


def _request(endpoint: str, body: bytes) -> ChatRequest | EmbedRequest:
    if endpoint != "/v1/chat/completions":
        return EmbedRequest.parse(body)
    request = ChatRequest.parse(body)
    if request.stream:
        raise InvalidRequest("A batch's requests cannot be streamed: `stream`.", param="stream")
    return request


def _custom_id(raw: bytes) -> str | None:
    """Of a line that is JSON but no request: so that its owner can find it."""
    try:
        found = _NAMED.decode(raw).custom_id
    except msgspec.ValidationError:
        return None
    return found[:512] if isinstance(found, str) else None


def response_line(entry_id: str, custom_id: str | None, request_id: str, status: int, body: bytes) -> bytes:
    """A line of the output file, or of the error file when `status` says so: what the endpoint answered."""
    if b"\n" in body:
        body = msgspec.json.format(body, indent=-1)  # one entry, one line
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _encode({"id": entry_id, "custom_id": custom_id, "response": response, "error": None})


def error_line(entry_id: str, custom_id: str | None, request_id: str, exc: GatewayError) -> bytes:
    """A line of the error file: the endpoint would have said this."""
    error = {"message": exc.message, "type": exc.type, "param": exc.param, "code": exc.code}
    return response_line(entry_id, custom_id, request_id, exc.status, _encode({"error": error}))


def unprocessed_line(
    entry_id: str, custom_id: str | None, line: int, code: str, message: str, param: str | None = None
) -> bytes:
    """A line of the error file: the request was never made, or its answer is lost."""
    error = {"code": code, "message": message, "param": param, "line": line}
    return _encode({"id": entry_id, "custom_id": custom_id, "response": None, "error": error})
