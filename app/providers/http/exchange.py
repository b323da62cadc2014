"""HTTP exchange: one request and its response over one connection, with time-outs, size limits and cancellation.

Closing an exchange in the middle of a body closes the socket, so that the provider stops generating.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, NoReturn

from geventhttpclient.response import HTTPParseError

from app.config.providers import Timeouts
from app.errors import ClientGone, UpstreamError, UpstreamTimeout
from app.net.sockets import receive, receive_available, send
from app.providers.base import CancelToken
from app.providers.http.parser import IncrementalParser, parse_complete

_READ_BYTES = 65_536
_MAX_HEADER_BYTES = 256 * 1024
_MAX_BODY_BYTES = 32 * 1024 * 1024
_MAX_UNREAD_BYTES = 8 * 1024 * 1024


class ExchangeFailed(Exception):
    """The connection failed, or what came over it is not HTTP. `kind` is `UpstreamError`'s."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Exchange:
    """One request and its response. Releases its socket when the body was read to its end, else at `close`."""

    def __init__(
        self,
        sock: Any,
        *,
        provider: str,
        timeouts: Timeouts,
        deadline: float,
        cancel: CancelToken,
        release: Callable[[Any, bool], None],
    ) -> None:
        """`release` is called once with the socket, and with True if another exchange may use it."""
        self._sock = sock
        self._provider = provider
        self._timeouts = timeouts
        self._release_socket = release
        self._deadline = deadline
        self._cancel = cancel
        self._parser: Any = None  # from the first bytes on an `IncrementalParser` or a `CompleteResponse`
        self._received_bytes = 0
        self._request_sent = False
        self._unread = b""  # had arrived when the client hung up
        self._first_byte_deadline = 0.0  # time.monotonic
        self._waits_for_deadline = False  # the wait under way ends with the call's own time

    @property
    def has_response(self) -> bool:
        """True once a byte of the response has come."""
        return self._received_bytes > 0

    @property
    def billable(self) -> bool:
        """True if the provider may bill the call: it has the whole request, and has not refused it."""
        parser = self._parser
        return self._request_sent and (parser is None or not parser.headers_complete or parser.get_code() <= 200)

    @property
    def status(self) -> int:
        return int(self._parser.get_code())

    def header(self, name: str) -> str:
        value = self._parser.get(name) or ""
        return value if isinstance(value, str) else value[0]

    def start(self, message: bytes) -> None:
        """Sends the request and reads the headers.

        Raises `ExchangeFailed`, `UpstreamTimeout` and `ClientGone`, and closes the socket on each.
        """
        self._cancel.on_cancel(self._on_cancel)
        try:
            self._send(message)
            self._request_sent = True
            self._first_byte_deadline = time.monotonic() + self._timeouts.first_byte_s
            self._read_headers()
        except BaseException:
            self._close_unstarted()
            raise

    def read_first(self) -> bytes:
        """Reads as `read` does, within what is left of the time for the first byte."""
        return self.read(self._first_byte_left_s(), "timeout_first_byte")

    def read(self, limit_s: float, kind: str) -> bytes:
        """Returns the next bytes of the body; b"" at its end. Raises `UpstreamTimeout(kind)`, `UpstreamError` cut."""
        parser = self._parser
        while True:
            block: bytes = parser.take_body()
            if block:
                return block
            if parser.message_complete:
                self._release()
                return b""
            try:
                more = self._receive(limit_s, kind)
            except ExchangeFailed as exc:
                self._raise_cut(exc)
            if not more and not parser.message_complete:
                self._raise_cut(None)

    def read_all(self, max_bytes: int = _MAX_BODY_BYTES) -> bytes:
        """Returns the whole body. Raises `UpstreamError` bad_body when it is too long to be an answer."""
        limit_s = self._timeouts.idle_s
        blocks = []
        size = 0
        while block := self.read(limit_s, "timeout_idle"):
            size += len(block)
            if size > max_bytes:
                self.close()
                name = self._provider
                raise UpstreamError(
                    f"The provider {name}'s answer is too long.", provider=name, kind="bad_body", billable=self.billable
                )
            blocks.append(block)
        return b"".join(blocks)

    def release_if_complete(self) -> None:
        """Keeps the connection if the body ends here, and closes it if not. The caller has all that it wants."""
        if not self._parser.message_complete and self._sock is not None:
            # The chunked terminator mostly comes in the same packet as the last event, or right behind it.
            try:
                self._receive(0.05, "timeout_idle")
            except (UpstreamError, ClientGone, ExchangeFailed):
                pass
        if self._parser.message_complete:
            self._release()
        else:
            self.close()

    def take_unread(self) -> bytes:
        """Returns what of the body has come unread, for the bill: the provider wrote it. Never waits."""
        unread, self._unread = self._unread, b""
        if self._sock is not None:
            unread += receive_available(self._sock, _MAX_UNREAD_BYTES)
        if unread:
            try:
                self._parser.feed(unread)
            except HTTPParseError:
                pass
        rest: bytes = self._parser.take_body()
        return rest

    def close(self) -> None:
        """Closes the connection, whatever of the body is unread. A second call does nothing."""
        if self._sock is not None:
            self._cancel.on_cancel(None)
            sock, self._sock = self._sock, None
            self._release_socket(sock, False)

    def _send(self, message: bytes) -> None:
        limit_s = self._timeouts.first_byte_s
        try:
            send(self._sock, message, self._wait_s(limit_s, "timeout_first_byte"))
        except TimeoutError:
            self._raise_timeout("timeout_first_byte")
        except OSError as exc:
            self._raise_gone_or_failed(exc)

    def _read_headers(self) -> None:
        while (parser := self._parser) is None or not parser.headers_complete or parser.get_code() < 200:
            if self._received_bytes > _MAX_HEADER_BYTES:
                raise ExchangeFailed("bad_body")
            if not self._receive(self._first_byte_left_s(), "timeout_first_byte"):
                raise ExchangeFailed("cut")

    def _first_byte_left_s(self) -> float:
        return max(self._first_byte_deadline - time.monotonic(), 0.001)

    def _on_cancel(self) -> None:
        """Closes the socket, which wakes the greenlet that waits on it."""
        if self._parser is not None:
            self._unread = receive_available(self._sock, _MAX_UNREAD_BYTES)
        self._sock.close()

    def _close_unstarted(self) -> None:
        """Closes the socket of an exchange that did not start; its slot in the pool stays with the caller of `post`."""
        self._cancel.on_cancel(None)
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _release(self) -> None:
        if self._sock is not None:
            self._cancel.on_cancel(None)
            sock, self._sock = self._sock, None
            self._release_socket(sock, not self._parser.should_close() and not self._cancel.cancelled)

    def _receive(self, limit_s: float, kind: str) -> bool:
        """Reads once and parses. False at the end of the connection.

        Raises `ExchangeFailed`, `UpstreamTimeout`, `ClientGone`.
        """
        try:
            data = receive(self._sock, _READ_BYTES, self._wait_s(limit_s, kind))
        except TimeoutError:
            self._raise_timeout(kind)
        except OSError as exc:
            if isinstance(exc, ssl.SSLError) and "timed out" in str(exc):
                self._raise_timeout(kind)
            self._raise_gone_or_failed(exc)
        self._received_bytes += len(data)
        if self._parser is None:
            self._parser = parse_complete(data)
            if self._parser is not None:
                return True
            self._parser = IncrementalParser("POST")
        try:
            self._parser.feed(data)
        except HTTPParseError as exc:
            raise ExchangeFailed("bad_body" if data else "cut") from exc
        return bool(data)

    def _wait_s(self, limit_s: float, kind: str) -> float:
        """Returns `limit_s`, or the rest of the call's time if that is less. Raises `UpstreamTimeout` at its end."""
        left_s = self._deadline - time.monotonic()
        self._waits_for_deadline = left_s <= limit_s
        if left_s <= 0:
            self._raise_timeout(kind)
        return min(limit_s, left_s)

    def _raise_timeout(self, kind: str) -> NoReturn:
        name = self._provider
        if self._waits_for_deadline:
            kind = "timeout_total"
        raise UpstreamTimeout(
            f"The provider {name} took too long to answer.", provider=name, kind=kind, billable=self.billable
        )

    def _raise_gone_or_failed(self, exc: OSError) -> NoReturn:
        if self._cancel.cancelled:
            raise ClientGone("The client hung up.", billable=self.billable) from exc
        raise ExchangeFailed("cut") from exc

    def _raise_cut(self, exc: ExchangeFailed | None) -> NoReturn:
        self.close()
        name = self._provider
        kind = exc.kind if exc is not None else "cut"
        raise UpstreamError(
            f"The provider {name} broke off its answer.", provider=name, kind=kind, billable=self.billable
        ) from exc
