"""A load generator on raw gevent sockets, cheap enough not to be what is measured. One JSON line of results.

`python -m bench.load PORT CALLS CONCURRENCY`, the request's head and body on stdin.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Group


class Load:
    def __init__(self, port: int, message: bytes) -> None:
        self._port = port
        self._message = message
        self.left = 0
        self.statuses: dict[str, int] = {}
        self.chunks = 0
        self.done = 0
        self.latencies: list[float] = []

    def run(self, calls: int, concurrency: int) -> dict[str, Any]:
        self.left = calls
        started, cpu = time.perf_counter(), time.process_time()
        group = Group()
        for _ in range(concurrency):
            group.spawn(self._client)
        group.join(timeout=300)
        elapsed = time.perf_counter() - started
        self.latencies.sort()
        return {
            "seconds": elapsed, "per_second": calls / elapsed, "cpu_s": time.process_time() - cpu,
            "statuses": self.statuses, "chunks": self.chunks, "done": self.done,
            "p50_ms": self._quantile(0.5), "p99_ms": self._quantile(0.99),
        }  # fmt: skip

    def _quantile(self, q: float) -> float:
        return round(self.latencies[int((len(self.latencies) - 1) * q)] * 1000, 2) if self.latencies else 0.0

    def _client(self) -> None:
        sock = None
        while self.left > 0:
            self.left -= 1
            started = time.perf_counter()
            if sock is None:
                sock = socket.create_connection(("127.0.0.1", self._port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(self._message)
            if not self._answer(sock):
                sock.close()
                sock = None
            self.latencies.append(time.perf_counter() - started)

    def _answer(self, sock: Any) -> bool:
        """Reads one answer; whether the connection can be used again."""
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
            tail = self._stream(sock, body)
            return tail and b"connection: close" not in lower
        length = int(lower.split(b"content-length:")[1].split(b"\r\n", 1)[0])
        size = len(body)
        while size < length:
            more = sock.recv(65536)
            if not more:
                return False
            size += len(more)
        return b"connection: close" not in lower

    def _stream(self, sock: Any, data: bytes) -> bool:
        end = b""
        while True:
            self.chunks += data.count(b'"content":')
            end = (end + data)[-64:]
            if end.endswith(b"0\r\n\r\n"):
                self.done += b"[DONE]" in end
                return True
            data = sock.recv(65536)
            if not data:
                self._count("cut")
                return False

    def _count(self, status: str) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


def main() -> None:
    port, calls, concurrency = (int(argument) for argument in sys.argv[1:4])
    print(json.dumps(Load(port, sys.stdin.buffer.read()).run(calls, concurrency)))


if __name__ == "__main__":
    gevent.get_hub()
    main()
