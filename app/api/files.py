"""OpenAI's file endpoints, for batches: upload in multipart straight to disk, list, retrieve, read, delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import gevent
import structlog
from flask import Response, request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.formparser import FormDataParser

from app.api.context import caller, services
from app.api.errors import unsupported_media_type
from app.api.pagination import after, limit, page
from app.domain.batch import ExpiresAfter, parse_expires_after
from app.errors import InvalidRequest, NotFound
from app.store.files import Files, StoredFile, Upload
from app.store.fsync import fsync_in_thread

log = structlog.get_logger()
_MAX_FORM_BYTES = 262_144  # of an upload, besides the file itself; the parser wants it longer than two of its reads
_UPLOAD_TIMEOUT_S = 900.0
_BLOCK = 65_536
_MAX_LIMIT = 10_000
_MAX_NAME_CHARS = 255


def create_file() -> dict[str, Any]:
    """Stores an uploaded file. Raises `InvalidRequest`, `RequestTooLarge`, `NotReady`."""
    files, key_id = services().files, caller().key_id
    request.max_content_length = services().settings.config.batch.max_file_bytes + _MAX_FORM_BYTES
    if request.mimetype != "multipart/form-data":
        raise unsupported_media_type("multipart/form-data", request.content_type or "")
    upload = files.begin_upload(key_id)
    try:
        form, filename = _receive(upload)
        if form.get("purpose") != "batch":
            raise InvalidRequest("Only files with the purpose `batch` are taken: `purpose`.", param="purpose")
        expires = _expires_after(form)
        ttl_s = None if expires is None else float(expires.seconds)
        return file_object(
            files.commit(upload, key_id, purpose="batch", filename=filename, ttl_s=ttl_s, sync=fsync_in_thread)
        )
    finally:
        upload.discard()  # a committed file has another name now


def list_files() -> dict[str, Any]:
    order = request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Expected asc or desc: `order`.", param="order")
    found, has_more = services().files.list(
        caller().key_id,
        limit=limit(_MAX_LIMIT, _MAX_LIMIT),
        after=after(),
        descending=order == "desc",
        purpose=request.args.get("purpose"),
    )
    return page([file_object(file) for file in found], has_more)


def retrieve_file(file_id: str) -> dict[str, Any]:
    return file_object(services().files.get(caller().key_id, file_id))


def file_content(file_id: str) -> Response:
    files: Files = services().files
    file = files.get(caller().key_id, file_id)
    path = files.path(file.file_id)
    if not path.exists():
        log.error("file_content_missing", file_id=file.file_id)
        raise NotFound("The file's content is not there any more.")
    headers = {"Content-Length": str(file.bytes), "X-Content-Type-Options": "nosniff"}
    response = Response(_blocks(path), mimetype="application/octet-stream", headers=headers)
    response.headers.set("Content-Disposition", "attachment", filename=file.filename)
    return response


def delete_file(file_id: str) -> dict[str, Any]:
    services().files.delete(caller().key_id, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def file_object(file: StoredFile) -> dict[str, Any]:
    """Returns a file as OpenAI shows it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def _receive(upload: Upload) -> tuple[dict[str, str], str]:
    """Writes the file's content to `upload`. Returns the form's fields and the file's name."""
    target: list[Upload] = [upload]

    def stream_for_a_file(*_: object, **__: object) -> Any:
        if not target:
            _reject("Only one file can be uploaded at a time")
        return _UploadWriter(target.pop())

    parser = FormDataParser(stream_for_a_file, max_form_memory_size=_MAX_FORM_BYTES, max_form_parts=20, silent=False)
    timeout = gevent.Timeout(_UPLOAD_TIMEOUT_S)
    try:
        with timeout:
            _, form, files = parser.parse(
                request.stream, request.mimetype, request.content_length, dict(request.mimetype_params)
            )
    except gevent.Timeout as exc:
        if exc is not timeout:
            raise
        _reject(f"The file did not arrive within {_UPLOAD_TIMEOUT_S:g} seconds")
    except (ValueError, ClientDisconnected):
        raise InvalidRequest("The request body is not valid multipart/form-data.") from None
    except OSError:
        raise InvalidRequest("The request body ended early.") from None
    found = files.get("file")
    if found is None:
        _reject("Expected a file")
    return form.to_dict(), _clean_name(found.filename)


class _UploadWriter:
    """An upload as the writable stream that the form parser expects."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload

    def write(self, data: bytes) -> int:
        # A client that is faster than we are never makes us wait, and the worker's other calls would.
        gevent.sleep(0)
        return self._upload.write(data)

    def seek(self, _: int) -> None:
        """A no-op: the file is read from its beginning anyway."""


def _reject(reason: str) -> NoReturn:
    raise InvalidRequest(f"{reason}: `file`.", param="file")


def _clean_name(filename: str | None) -> str:
    """Returns a name that can be shown and sent in a header; it is never a path."""
    name = "".join(char for char in filename or "" if char.isprintable())
    return name.replace("\\", "/").rpartition("/")[2][:_MAX_NAME_CHARS] or "file"


def _expires_after(form: dict[str, str]) -> ExpiresAfter | None:
    fields = {name: form.get(f"expires_after[{name}]") for name in ("anchor", "seconds")}
    return parse_expires_after(fields) if any(fields.values()) else None


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block
            gevent.sleep(0)  # as with uploads
