"""Log lines: one event a line, JSON in production and readable in development, whoever wrote it.

Our own events (structlog) and those of libraries (standard logging, gunicorn included) go through one renderer
and one redaction. Logging never fails a call: what cannot be rendered is rendered poorly, what cannot be
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
from app.telemetry.redaction import redactor

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# At debug level these write whole requests and answers: prompts and keys.
_TALKATIVE = (
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
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_PLAIN_TYPES = frozenset({int, float, bool, type(None)})
_encode = msgspec.json.Encoder(enc_hook=repr).encode

Render = Callable[[EventDict], bytes]


def configure_logging(level: str, json: bool, secrets: frozenset[str], *, fd: int = 1) -> None:
    """Sets up structlog and standard logging for this process. `level`: debug, info, warning, error.

    Lines go to the file descriptor `fd`: 1 for servers; 2 for commands, whose standard output is their result.
    """
    redact = redactor(secrets)
    plain: Render = _json_line if json else _console(colors=os.isatty(fd) or "FORCE_COLOR" in os.environ)
    output = Output(fd)

    def render(event: EventDict) -> bytes:
        return redact(plain(event))

    def tell(method: str, event: str, fields: EventDict) -> None:
        output.write(render(_stamp(method, event, fields)))

    structlog.configure(
        wrapper_class=_bound_logger(_LEVELS[level], tell),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_LibraryHandler(render, output)]
    root.setLevel(max(_LEVELS[level], logging.INFO))
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _bound_logger(least: int, tell: Callable[[str, str, EventDict], None]) -> type[structlog.BoundLoggerBase]:
    """structlog's logger with methods that lead straight to `tell`: its own way through processors takes as long as
    making the line does (0.006 ms a completion)."""

    def method(name: str) -> Callable[..., None]:
        def log(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
            tell(name, event, {**self._context, **fields} if self._context else fields)

        return log

    def exception(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
        tell("error", event, {**self._context, "exc_info": True, **fields})

    def nothing(self: structlog.BoundLoggerBase, event: str, **fields: Any) -> None:
        """Below the level."""

    methods = {name: method(name) if level >= least else nothing for name, level in _LEVELS.items()}
    return type("Events", (structlog.BoundLoggerBase,), {**methods, "exception": exception})


class Output:
    """Writes lines to a file descriptor, each with one system call so that workers' lines do not mix."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, line: bytes) -> None:
        rest = line + b"\n"
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            pass  # The reader is gone or the disk is full: there is nobody left to tell.


class _LibraryHandler(logging.Handler):
    """Standard logging records as our lines: the message is the event, the logger's name a field."""

    def __init__(self, render: Render, output: Output) -> None:
        super().__init__()
        self._render = render
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        fields: EventDict = {"logger": record.name}
        try:
            event = record.getMessage()
            fields["exc_info"] = record.exc_info
        except Exception:  # noqa: BLE001 - the boundary: arguments that do not fit the message
            event = _safe_text(record.msg)
        self._output.write(self._render(_stamp(record.levelname.lower(), event, fields)))


def timestamp() -> str:
    """Now, UTC, as in logs and answers: `2026-11-20T23:00:00.123Z`."""
    second, nanos = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(second)}.{nanos // 1_000_000:03d}Z"


@lru_cache(maxsize=2)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _stamp(level: str, event: str, fields: EventDict) -> EventDict:
    """Time, level and event come first, so that lines can be read down the screen."""
    stamped: EventDict = {"timestamp": timestamp(), "level": level, "event": event, **fields}
    if "exc_info" in stamped:
        error = stamped.pop("exc_info")
        if error:
            stamped["exception"] = _traceback(error)
    return stamped


def _traceback(error: Any) -> str:
    """The traceback without local variables: they hold prompts."""
    if isinstance(error, BaseException):
        lines = traceback.format_exception(error)
    elif isinstance(error, tuple) and error[0] is not None:
        lines = traceback.format_exception(*error)
    else:
        lines = traceback.format_exc().splitlines(keepends=True)
    return "".join(lines).rstrip()


def _json_line(event: EventDict) -> bytes:
    try:
        return _encode(event)
    except Exception:  # noqa: BLE001 - the boundary: a lone surrogate or a cycle must not fail the call
        return stdlib_json.dumps({str(key): _safe_text(value) for key, value in event.items()}).encode()


def _safe_text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as exc:  # noqa: BLE001 - the boundary: somebody's __repr__
        return f"<{type(value).__name__}: {type(exc).__name__}>"


def _console(*, colors: bool) -> Render:
    """Readable lines: `12:00:00.123Z info  event name=value`, in UTC. structlog's own takes four times as long."""
    dim, plain = (_DIM, _PLAIN) if colors else ("", "")
    levels = {level: f"{colour}{level:<5}{plain}" if colors else f"{level:<5}" for level, colour in _COLOURS.items()}

    def render(event: EventDict) -> bytes:
        fields = iter(event.items())
        moment, level, name = (_one_line(next(fields)[1]) for _ in range(3))  # as `_stamp` puts them
        text = f"{moment[11:]} {levels.get(level, level)} {name}"
        for name, value in fields:
            if name != "exception":
                text += f" {dim}{name}={plain}{_shown(value)}"
        # Indented, so that a line break inside a message cannot pass for a line of its own.
        for line in event.get("exception", "").splitlines():
            text += "\n    " + _one_line(line)
        return text.encode("utf-8", "backslashreplace")

    return render


def _shown(value: Any) -> str:
    """A value of a readable line: in quotes where it would be taken for several."""
    if type(value) in _PLAIN_TYPES:
        return str(value)
    text = _one_line(value)
    return repr(text) if " " in text or "=" in text or not text else text


def _one_line(value: Any) -> str:
    """Without line breaks and terminal escapes: values may come from callers."""
    return printable(_safe_text(value))
