"""Worker state: the application, limits, base environ and date of all connections of a worker, and their draining."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import gevent
from gunicorn.http.message import MAX_REQUEST_LINE, _ip_in_allow_list
from gunicorn.http.wsgi import base_environ

# They change the meaning of a message, or how its environ is made.
_NOT_PLAIN = frozenset(
    {"TRANSFER-ENCODING", "EXPECT", "UPGRADE", "SCRIPT-NAME", "PROXY-CONNECTION", "TE", "TRAILER", "KEEP-ALIVE"}
)
_IDLE_S = 6.0  # nginx closes an idle connection to us after 5


@lru_cache(512)
def environ_key(name: str) -> str:
    """Returns the environ key of a header; "" for one that is not plain."""
    upper = name.upper()
    if "_" in upper or upper in _NOT_PLAIN:
        return ""
    key = upper.replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


class ListenerAddress:
    """A listening socket's address, kept when the socket is closed: clients connected before are still served."""

    def __init__(self, listener: Any) -> None:
        self._address = listener.getsockname()

    def getsockname(self) -> Any:
        return self._address


class WorkerState:
    """The state that all connections of a worker share."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.application = worker.wsgi
        cfg = worker.cfg
        self.environ: dict[str, Any] = {**base_environ(cfg), "wsgi.multithread": True}  # type: ignore[no-untyped-call]
        self.listeners = {id(listener): ListenerAddress(listener) for listener in worker.sockets}
        self.keepalive_s = cfg.keepalive
        # A setting of 0, "no limit", leaves everything to gunicorn.
        max_line = min(cfg.limit_request_line, MAX_REQUEST_LINE)
        self.limits = (max_line, cfg.limit_request_fields, cfg.limit_request_field_size)
        self.drain_s = cfg.graceful_timeout - worker.settling_s
        self.serving: set[Any] = set()  # greenlets, one a connection
        self.idle: set[Any] = set()  # clients' sockets between two requests
        self._draining_since: float | None = None
        self._calls_ended = False
        self._date = (0, b"")

    def scheme_headers(self, peer: Any) -> dict[str, str]:
        """Returns the headers by which `peer`, if it is our proxy, says that the client came over TLS."""
        cfg = self.worker.cfg
        trusted = not isinstance(peer, tuple) or _ip_in_allow_list(  # type: ignore[no-untyped-call]
            peer[0], cfg.forwarded_allow_ips, cfg.forwarded_allow_networks()
        )
        return (
            {f"HTTP_{name.replace('-', '_')}": on for name, on in cfg.secure_scheme_headers.items()} if trusted else {}
        )

    def drain(self) -> None:
        """Closes idle connections, but not at once, since a proxy may be sending a request down that very one; and ends
        calls that outlast the deadline. Called again and again while the worker ends."""
        now = time.monotonic()
        if self._draining_since is None:
            self._draining_since = now
        drained_s = now - self._draining_since
        if drained_s >= _IDLE_S:
            for client in list(self.idle):
                client.close()
        if drained_s >= self.drain_s:
            self.end_calls()

    def end_calls(self) -> None:
        """Closes and settles each call, as if its client had hung up."""
        if not self._calls_ended:
            self._calls_ended = True  # once: a second exception would meet a call in the middle of its settlement
            gevent.killall(list(self.serving), block=False)

    def date(self) -> bytes:
        """Returns the value of the `Date` header."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]
