"""Load generator on raw gevent sockets, cheap enough not to be what is measured. Prints one JSON line of results.

`python -m bench.load PORT CALLS CONCURRENCY CHUNK_MS EVERY_MS [tls]`, with the request's head and body on stdin. Each
client makes a call every EVERY_MS; with 0, one after the other. Results of streams include the time of the first chunk,
and the lateness of each: after the first, one is due every CHUNK_MS.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gevent
from gevent import socket, ssl
from gevent.pool import Group

_TEXT = b'"tok "'  # of the vendor's chunks, see tests.support.upstream
# Each dialect's sign that an answer is whole, in the last bytes of its stream.
_ENDINGS = (b"[DONE]", b"event: message_stop", b"event: response.completed", b'"finishReason":"STOP"')
_TAIL_BYTES = 4096


class LoadGenerator:
    """Clients that make the same request again and again, and what they have seen so far."""

    def __init__(self, port: int, message: bytes, *, chunk_ms: int = 0, every_ms: int = 0, tls: bool = False) -> None:
        self._port = port
        self._message = message
        self._chunk_s = chunk_ms / 1000
        self._every_s = every_ms / 1000
        self._tls = _unverified_tls() if tls else None
        self.left = 0
        self.statuses: dict[str, int] = {}
        self.chunks = 0
        self.done = 0
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.lateness: list[float] = []

    def run(self, calls: int, concurrency: int) -> dict[str, Any]:
        """Makes `calls` calls with `concurrency` clients. Returns the results."""
        self.left = calls
        started, cpu = time.perf_counter(), time.process_time()
        group = Group()
        for n in range(concurrency):
            group.spawn(self._client, self._every_s * n / concurrency)
        group.join(timeout=300)
        elapsed = time.perf_counter() - started
        return {
            "seconds": elapsed,
            "per_second": calls / elapsed,
            "cpu_s": time.process_time() - cpu,
            "statuses": self.statuses,
            "chunks": self.chunks,
            "done": self.done,
            **_quantiles("latency", self.latencies),
            **_quantiles("first", self.firsts),
            **_quantiles("late", self.lateness),
        }

    def _client(self, after_s: float) -> None:
        gevent.sleep(after_s)
        sock = None
        while self.left > 0:
            self.left -= 1
            if sock is None:
                sock = self._connect()
            started = time.perf_counter()
            sock.sendall(self._message)
            if not self._read_response(sock, started):
                sock.close()
                sock = None
            took_s = time.perf_counter() - started
            self.latencies.append(took_s)
            if self._every_s:
                gevent.sleep(max(0.0, self._every_s - took_s))

    def _connect(self) -> Any:
        sock: Any = socket.create_connection(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if self._tls is None else self._tls.wrap_socket(sock)

    def _read_response(self, sock: Any, started: float) -> bool:
        """Reads one response. Returns True if the connection can be used again."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                self._count("broken")
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        self._count(head[9:12].decode())
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            return self._read_stream(sock, body, started) and b"connection: close" not in lower
        length = int(lower.split(b"content-length:")[1].split(b"\r\n", 1)[0])
        size = len(body)
        while size < length:
            more = sock.recv(65536)
            if not more:
                self._count("cut")
                return False
            size += len(more)
        return b"connection: close" not in lower

    def _read_stream(self, sock: Any, data: bytes, started: float) -> bool:
        """Reads the rest of a stream. Returns False if it is cut."""
        end = b""
        seen = 0
        first = 0.0
        while True:
            now = time.perf_counter()
            # A gateway may write the JSON anew, and add chunks of its own: what counts is the vendor's text. One that
            # two reads share is counted with the second.
            known = end[-len(_TEXT) + 1 :]
            for _ in range((known + data).count(_TEXT)):
                if not seen:
                    first = now
                    self.firsts.append(now - started)
                self.lateness.append(now - first - seen * self._chunk_s)
                seen += 1
            end = (end + data)[-_TAIL_BYTES:]
            if end.endswith(b"0\r\n\r\n"):
                self.chunks += seen
                self.done += any(marker in end for marker in _ENDINGS)
                return True
            data = sock.recv(65536)
            if not data:
                self._count("cut")
                return False

    def _count(self, status: str) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


def _unverified_tls() -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _quantiles(name: str, seconds: list[float]) -> dict[str, float]:
    seconds.sort()
    return {
        f"{name}_p{q}_ms": round(seconds[(len(seconds) - 1) * q // 100] * 1000, 2) if seconds else 0.0 for q in (50, 99)
    }


def main() -> None:
    port, calls, concurrency, chunk_ms, every_ms = (int(argument) for argument in sys.argv[1:6])
    message, tls = sys.stdin.buffer.read(), sys.argv[6:] == ["tls"]
    generator = LoadGenerator(port, message, chunk_ms=chunk_ms, every_ms=every_ms, tls=tls)
    print(json.dumps(generator.run(calls, concurrency)))


if __name__ == "__main__":
    gevent.get_hub()
    main()
