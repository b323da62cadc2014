"""OpenAI's Batch API: the request that creates a batch, its input lines, and the lines of its output and error files.

Source of shapes and codes: OpenAI API reference, "Create batch", "The request input object", "The request output
object", and the batch guide. An invalid line fails alone; OpenAI fails the whole batch.
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
_MIN_TTL_S, _MAX_TTL_S = 3_600, 2_592_000
_encode = msgspec.json.Encoder().encode


class ExpiresAfter(msgspec.Struct, frozen=True):
    """The time to live of a file, from its creation on."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=_MIN_TTL_S, le=_MAX_TTL_S)]


_MetadataKey = Annotated[str, msgspec.Meta(max_length=64)]
_MetadataValue = Annotated[str, msgspec.Meta(max_length=512)]


class BatchRequest(msgspec.Struct, frozen=True):
    """The body of `POST /batches`."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[_MetadataKey, _MetadataValue], msgspec.Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None

    @classmethod
    def parse(cls, raw: bytes) -> BatchRequest:
        """Raises `InvalidRequest` with `param` naming the field."""
        request = decode_body(_REQUEST, raw)
        if "\x00" in request.input_file_id:  # PostgreSQL refuses to compare it
            raise InvalidRequest("`input_file_id` must not contain NUL characters.", param="input_file_id")
        return request


class BatchLine(NamedTuple):
    """A valid line of an input file."""

    number: int  # from 1
    custom_id: str
    request: ChatRequest | EmbedRequest


class InvalidBatchLine(NamedTuple):
    """An invalid line of an input file, with OpenAI's code. `error` is what the endpoint itself would have answered."""

    number: int
    custom_id: str | None
    code: str
    message: str
    param: str | None = None
    error: GatewayError | None = None


class _LineFields(msgspec.Struct, frozen=True):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _CustomId(msgspec.Struct, frozen=True):
    custom_id: Any = None


def parse_expires_after(fields: Mapping[str, object]) -> ExpiresAfter:
    """Returns the `expires_after` of a form, whose numbers are text. Raises `InvalidRequest`."""
    try:
        return msgspec.convert(fields, ExpiresAfter, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"{exc}: `expires_after`.", param="expires_after") from None


_REQUEST = msgspec.json.Decoder(BatchRequest)
_LINE = msgspec.json.Decoder(_LineFields)
_CUSTOM_ID = msgspec.json.Decoder(_CustomId)


def parse_line(number: int, raw: bytes, endpoint: str) -> BatchLine | InvalidBatchLine:
    """Returns line `number` (from 1) of the input file of a batch for `endpoint`. Never raises."""
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
    """Returns the id of a line that is JSON but no request, so that its owner can find it."""
    try:
        found = _CUSTOM_ID.decode(raw).custom_id
    except msgspec.ValidationError:
        return None
    return found[:512] if isinstance(found, str) else None


def response_line(entry_id: str, custom_id: str | None, request_id: str, status: int, body: bytes) -> bytes:
    """Returns a line of the output file, or of the error file when `status` says so: what the endpoint answered."""
    if b"\n" in body:
        body = msgspec.json.format(body, indent=-1)  # one entry, one line
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    return _encode({"id": entry_id, "custom_id": custom_id, "response": response, "error": None})


def error_line(entry_id: str, custom_id: str | None, request_id: str, exc: GatewayError) -> bytes:
    """Returns a line of the error file: the error that the endpoint would have answered."""
    error = {"message": exc.message, "type": exc.type, "param": exc.param, "code": exc.code}
    return response_line(entry_id, custom_id, request_id, exc.status, _encode({"error": error}))


def unprocessed_line(
    entry_id: str, custom_id: str | None, line: int, code: str, message: str, param: str | None = None
) -> bytes:
    """Returns a line of the error file for a request that was never made, or whose answer is lost."""
    error = {"code": code, "message": message, "param": param, "line": line}
    return _encode({"id": entry_id, "custom_id": custom_id, "response": None, "error": error})
