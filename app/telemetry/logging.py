"""Structured logging: one event a line, as JSON in production and readable in development.

Our own events (structlog) and those of libraries (standard logging, gunicorn included) go through one renderer and one
redaction. Logging never fails a call: a value that cannot be rendered is shown as its type, and a line that cannot be
written is dropped.
"""

from __future__ import annotations

import json as stdlib_json
import logging
import os
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict

from app.domain.printable import printable
from app.telemetry.redaction import build_redactor

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# At debug level these write whole requests and responses: prompts and keys.
_VERBOSE_LIBRARIES = (
    "openai",
    "httpx",
    "httpcore",
    "urllib3",
    "geventhttpclient",
    "sqlalchemy",
    "werkzeug",
    "alembic.runtime.plugins",
)
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_UNQUOTED_TYPES = frozenset({int, float, bool, type(None)})
_encode = msgspec.json.Encoder(enc_hook=repr).encode

Render = Callable[[EventDict], bytes]


def configure_logging(level: str, json: bool, secrets: frozenset[str], *, fd: int = 1) -> None:
    """Sets up structlog and standard logging for this process. `level`: debug, info, warning, error.

    Lines go to the file descriptor `fd`: 1 for servers; 2 for commands, whose standard output is their result.
    """
    redact = build_redactor(secrets)
    render_plain: Render = (
        _render_json if json else _console_renderer(colors=os.isatty(fd) or "FORCE_COLOR" in os.environ)
    )
    writer = LineWriter(fd)

    def render(event: EventDict) -> bytes:
        return redact(render_plain(event))

    def emit(level: str, event: str, fields: EventDict) -> None:
        writer.write(render(_build_event(level, event, fields)))

    structlog.configure(
        wrapper_class=_bound_logger(_LEVELS[level], emit),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_LibraryHandler(render, writer)]
    root.setLevel(max(_LEVELS[level], logging.INFO))
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _bound_logger(min_level: int, emit: Callable[[str, str, EventDict], None]) -> type[structlog.BoundLoggerBase]:
    """Returns a structlog logger class whose methods call `emit` directly: structlog's own way through processors takes
    as long as rendering the line does (0.006 ms a completion)."""

    def method(name: str) -> Callable[..., None]:
        def log(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
            emit(name, event, {**self._context, **fields} if self._context else fields)

        return log

    def exception(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
        emit("error", event, {**self._context, "exc_info": True, **fields})

    def ignore(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
        """Drops an event below the level."""

    methods = {name: method(name) if level >= min_level else ignore for name, level in _LEVELS.items()}
    return type("Events", (structlog.BoundLoggerBase,), {**methods, "exception": exception})


class LineWriter:
    """A writer of lines to a file descriptor: one system call a line, so that workers' lines do not mix."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, line: bytes) -> None:
        """Writes `line` and a line feed. Never raises."""
        rest = line + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            pass  # The reader is gone or the disk is full: no error could be reported either.


class _LibraryHandler(logging.Handler):
    """A handler that writes standard logging's records as our lines: the message is the event."""

    def __init__(self, render: Render, writer: LineWriter) -> None:
        super().__init__()
        self._render = render
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: EventDict = {"logger": record.name}
        try:
            event = record.getMessage()
            fields["exc_info"] = record.exc_info
        except Exception:  # noqa: BLE001 - the boundary: arguments that do not fit the message
            event = _safe_text(record.msg)
        self._writer.write(self._render(_build_event(record.levelname.lower(), event, fields)))


def timestamp() -> str:
    """Returns the time now in UTC, as in logs and answers: `2026-11-20T23:00:00.123Z`."""
    second, nanos = divmod(time.time_ns(), 1_000_000_000)
    return f"{_format_second(second)}.{nanos // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _format_second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _build_event(level: str, event: str, fields: EventDict) -> EventDict:
    """Returns the fields of a line. Time, level and event come first, so that lines can be read down the screen."""
    line: EventDict = {"timestamp": timestamp(), "level": level, "event": event, **fields}
    if "exc_info" in line:
        error = line.pop("exc_info")
        if error:
            line["exception"] = _format_traceback(error)
    return line


def _format_traceback(error: Any) -> str:
    """Returns the traceback without local variables: they hold prompts."""
    if isinstance(error, BaseException):
        lines = traceback.format_exception(error)
    elif isinstance(error, tuple) and error[0] is not None:
        lines = traceback.format_exception(*error)
    else:
        lines = traceback.format_exc().splitlines(keepends=True)
    return "".join(lines).rstrip()


def _render_json(event: EventDict) -> bytes:
    try:
        return _encode(event)
    except Exception:  # noqa: BLE001 - the boundary: a lone surrogate or a cycle must not fail the call
        return stdlib_json.dumps({str(key): _safe_text(value) for key, value in event.items()}).encode()


def _safe_text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as exc:  # noqa: BLE001 - the boundary: somebody's __repr__
        return f"<{type(value).__name__}: {type(exc).__name__}>"


def _console_renderer(*, colors: bool) -> Render:
    """Returns a renderer of readable lines, `12:00:00.123Z info  event name=value`, in UTC.

    structlog's own takes four times as long.
    """
    dim, reset = (_DIM, _RESET) if colors else ("", "")
    levels = {level: f"{colour}{level:<5}{reset}" if colors else f"{level:<5}" for level, colour in _COLOURS.items()}

    def render(event: EventDict) -> bytes:
        fields = iter(event.items())
        moment, level, name = (_escape(next(fields)[1]) for _ in range(3))  # in the order of `_build_event`
        text = f"{moment[11:]} {levels.get(level, level)} {name}"
        for name, value in fields:
            if name != "exception":
                text += f" {dim}{name}={reset}{_format_value(value)}"
        # Indented, so that a line break inside a message cannot pass for a line of its own.
        for line in event.get("exception", "").splitlines():
            text += "\n    " + _escape(line)
        return text.encode("utf-8", "backslashreplace")

    return render


def _format_value(value: Any) -> str:
    """Returns a value of a readable line, in quotes where it would be taken for several."""
    if type(value) in _UNQUOTED_TYPES:
        return str(value)
    text = _escape(value)
    return repr(text) if " " in text or "=" in text or not text else text


def _escape(value: Any) -> str:
    """Returns the value's text without line breaks and terminal escapes: it may come from a caller."""
    return printable(_safe_text(value))
