"""Fake gateways at addresses of their own and one port, for faults that a real one cannot be made to have at will."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from threading import Thread

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Request-ID: played\r\n\r\n%b"


class Backend:
    """Answers each request with its own address, or breaks off, or stays silent: `manner`. Counts what it met."""

    def __init__(self, address: str, port: int, manner: str = "answers") -> None:
        self.address = address
        self.manner = manner
        self.met: Counter[str] = Counter()  # "connections" and methods
        self._listener = socket.create_server((address, port))
        self._clients: list[socket.socket] = []

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Backend:
        self._in_thread(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for open_socket in (self._listener, *self._clients):
            try:
                open_socket.shutdown(socket.SHUT_RDWR)  # wakes its thread, which close() would not
            except OSError:
                pass  # ended already
            open_socket.close()

    def _in_thread(self, work: Callable[..., None], *args: object) -> None:
        Thread(target=work, args=args, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.met["connections"] += 1
            self._clients.append(client)
            self._in_thread(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """Requests one after another; none in these tests has a body."""
        waiting = b""
        try:
            while data := client.recv(65536):
                waiting += data
                while b"\r\n\r\n" in waiting:
                    request, _, waiting = waiting.partition(b"\r\n\r\n")
                    self.met[request.split(b" ", 1)[0].decode()] += 1
                    if self.manner == "breaks off":
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    if self.manner == "answers":
                        said = self.address.encode()
                        client.sendall(_OK % (len(said), said))
                        if b"connection: close" in request.lower():
                            client.shutdown(socket.SHUT_RDWR)
                            return
        except OSError:
            pass  # nginx hung up
