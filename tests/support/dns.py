"""A DNS server that knows one name, whose addresses a test changes: containers that come, go and are replaced."""

from __future__ import annotations

import socket
import struct
from threading import Thread

_HEADER = 12


class DnsServer:
    """Answers every A question with `addresses`, to be kept for a second, and every other question with nothing."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = Thread(target=self._serve, daemon=True)

    def __enter__(self) -> DnsServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake the thread; an empty datagram does.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer(question), sender)

    def _answer(self, message: bytes) -> bytes:
        end = message.index(b"\0", _HEADER) + 5  # the name's end, its type and its class
        (kind,) = struct.unpack_from("!H", message, end - 4)
        addresses = self.addresses if kind == 1 else ()
        head = message[:2] + struct.pack("!HHHHH", 0x8180, 1, len(addresses), 0, 0)
        # 0xC00C: the name as it was asked; type A, class IN, one second.
        records = [struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in addresses]
        return head + message[_HEADER:end] + b"".join(records)
