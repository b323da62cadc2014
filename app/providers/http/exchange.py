"""One request and its answer over one connection: what is waited for, for how long, and how much is taken in.

Leaving in the middle of a body closes the socket, so that the provider stops generating.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, NoReturn

from geventhttpclient.response import HTTPParseError

from app.config.gateway import Timeouts
from app.errors import ClientGone, UpstreamError, UpstreamTimeout
from app.net.sockets import receive, receive_available, send
from app.providers.base import CancelToken
from app.providers.http.parser import Parser, whole

_BLOCK = 65_536
_MAX_HEADERS = 256 * 1024
_MAX_BODY = 32 * 1024 * 1024
_MAX_LATE = 8 * 1024 * 1024


class Broken(Exception):
    """The connection failed, or what came over it is no HTTP. `kind` is `UpstreamError`'s."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Exchange:
    """One request and its answer. Ends by itself when the body was read to its end, else by `close`."""

    def __init__(
        self,
        sock: Any,
        *,
        provider: str,
        timeouts: Timeouts,
        deadline: float,
        cancel: CancelToken,
        give_back: Callable[[Any, bool], None],
    ) -> None:
        """`give_back` gets the socket at the end, and whether another exchange may use it."""
        self._sock = sock
        self._provider = provider
        self._timeouts = timeouts
        self._give_back = give_back
        self._deadline = deadline
        self._cancel = cancel
        self._parser: Any = None  # from the first bytes on a `Parser` or a `Whole`
        self._received = 0  # bytes
        self._sent = False  # the whole request
        self._late = b""  # what had arrived when the client hung up
        self._first_byte_by = 0.0  # time.monotonic
        self._to_the_deadline = False  # whether the wait under way ends with the call's own time

    @property
    def answered(self) -> bool:
        """Whether a byte of the answer has come."""
        return self._received > 0

    @property
    def billable(self) -> bool:
        """Whether the provider may bill the call: it has the whole request, and has not refused it."""
        parser = self._parser
        return self._sent and (parser is None or not parser.headers_complete or parser.get_code() <= 200)

    @property
    def status(self) -> int:
        return int(self._parser.get_code())

    def header(self, name: str) -> str:
        value = self._parser.get(name) or ""
        return value if isinstance(value, str) else value[0]

    def begin(self, message: bytes) -> None:
        """Sends the request and reads the headers. Raises `Broken`, timeouts and `ClientGone`; closes on each."""
        self._cancel.on_cancel(self._hang_up)
        try:
            self._send(message)
            self._sent = True
            self._first_byte_by = time.monotonic() + self._timeouts.first_byte_s
            self._read_headers()
        except BaseException:
            self._abandon()
            raise

    def read_first(self) -> bytes:
        """As `read`, within what is left of the time for the first byte."""
        return self.read(self._first_byte_left_s(), "timeout_first_byte")

    def read(self, limit_s: float, kind: str) -> bytes:
        """The next bytes of the body; b"" at its end. Raises `UpstreamTimeout(kind)`, `UpstreamError` cut."""
        parser = self._parser
        while True:
            block: bytes = parser.take()
            if block:
                return block
            if parser.message_complete:
                self._finish()
                return b""
            try:
                more = self._feed(limit_s, kind)
            except Broken as exc:
                self._cut(exc)
            if not more and not parser.message_complete:
                self._cut(None)

    def read_all(self) -> bytes:
        """The whole body. Raises `UpstreamError` bad_body when it is too long to be an answer."""
        limit_s = self._timeouts.idle_s
        blocks = []
        size = 0
        while block := self.read(limit_s, "timeout_idle"):
            size += len(block)
            if size > _MAX_BODY:
                self.close()
                name = self._provider
                raise UpstreamError(
                    f"The provider {name}'s answer is too long.", provider=name, kind="bad_body", billable=self.billable
                )
            blocks.append(block)
        return b"".join(blocks)

    def finish_if_complete(self) -> None:
        """The caller has what it wants: the connection is kept if the body ends here, and closed if not."""
        if not self._parser.message_complete and self._sock is not None:
            # The chunked terminator mostly comes in the same packet as the last event, or right behind it.
            try:
                self._feed(0.05, "timeout_idle")
            except (UpstreamError, ClientGone, Broken):
                pass
        if self._parser.message_complete:
            self._finish()
        else:
            self.close()

    def take_arrived(self) -> bytes:
        """What else of the body had come when it was given up, for the bill: the provider wrote it. Never waits."""
        late, self._late = self._late, b""
        if self._sock is not None:
            late += receive_available(self._sock, _MAX_LATE)
        if late:
            try:
                self._parser.feed(late)
            except HTTPParseError:
                pass
        rest: bytes = self._parser.take()
        return rest

    def close(self) -> None:
        """Closes the connection, body or no body. Safe to call twice."""
        if self._sock is not None:
            self._cancel.on_cancel(None)
            sock, self._sock = self._sock, None
            self._give_back(sock, False)

    def _send(self, message: bytes) -> None:
        limit_s = self._timeouts.first_byte_s
        try:
            send(self._sock, message, self._patience(limit_s, "timeout_first_byte"))
        except TimeoutError:
            self._too_slow("timeout_first_byte")
        except OSError as exc:
            self._gone_or_broken(exc)

    def _read_headers(self) -> None:
        while (parser := self._parser) is None or not parser.headers_complete or parser.get_code() < 200:
            if self._received > _MAX_HEADERS:
                raise Broken("bad_body")
            if not self._feed(self._first_byte_left_s(), "timeout_first_byte"):
                raise Broken("cut")

    def _first_byte_left_s(self) -> float:
        return max(self._first_byte_by - time.monotonic(), 0.001)

    def _hang_up(self) -> None:
        """Closing the socket wakes whoever waits on it."""
        if self._parser is not None:
            self._late = receive_available(self._sock, _MAX_LATE)
        self._sock.close()

    def _abandon(self) -> None:
        """Closes the socket of an exchange that never began; its place stays with the caller of `post`."""
        self._cancel.on_cancel(None)
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _finish(self) -> None:
        if self._sock is not None:
            self._cancel.on_cancel(None)
            sock, self._sock = self._sock, None
            self._give_back(sock, not self._parser.should_close() and not self._cancel.cancelled)

    def _feed(self, limit_s: float, kind: str) -> bool:
        """Reads once. False at the end of the connection. Raises `Broken`, `UpstreamTimeout`, `ClientGone`."""
        try:
            data = receive(self._sock, _BLOCK, self._patience(limit_s, kind))
        except TimeoutError:
            self._too_slow(kind)
        except OSError as exc:
            if isinstance(exc, ssl.SSLError) and "timed out" in str(exc):
                self._too_slow(kind)
            self._gone_or_broken(exc)
        self._received += len(data)
        if self._parser is None:
            self._parser = whole(data)
            if self._parser is not None:
                return True
            self._parser = Parser("POST")
        try:
            self._parser.feed(data)
        except HTTPParseError as exc:
            raise Broken("bad_body" if data else "cut") from exc
        return bool(data)

    def _patience(self, limit_s: float, kind: str) -> float:
        left = self._deadline - time.monotonic()
        self._to_the_deadline = left <= limit_s
        if left <= 0:
            self._too_slow(kind)
        return min(limit_s, left)

    def _too_slow(self, kind: str) -> NoReturn:
        name = self._provider
        if self._to_the_deadline:
            kind = "timeout_total"
        raise UpstreamTimeout(
            f"The provider {name} took too long to answer.", provider=name, kind=kind, billable=self.billable
        )

    def _gone_or_broken(self, exc: OSError) -> NoReturn:
        if self._cancel.cancelled:
            raise ClientGone("The client hung up.", billable=self.billable) from exc
        raise Broken("cut") from exc

    def _cut(self, exc: Broken | None) -> NoReturn:
        self.close()
        name = self._provider
        kind = exc.kind if exc is not None else "cut"
        raise UpstreamError(
            f"The provider {name} broke off its answer.", provider=name, kind=kind, billable=self.billable
        ) from exc
