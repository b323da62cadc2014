"""A fake vendor that is greedy: it writes the most that a request allows, bills all of it, and keeps its own accounts.

A process of its own: `python -m tests.support.greedy`, which prints its port. How it reads a body is in
`tests.support.lenient`. A call is known by a mark anywhere in its body, `[[key-call-manner]]`; the manner is what the
vendor does:

    ok              answers                          slow.MS    … after a silence       pace.MS   … a chunk every MS
    stall.MS        silent for long, then answers    cut.N      its connection dies after N chunks (if not streamed:
    error.N         an error event after N chunks               instead of an answer)
    fail.CODE       an error of a proxy that did not wait    refuse.CODE  an error at once, which is not billed
    …-once          only the first attempt does so; later ones are ok

A whole answer is billed as soon as it is asked for. A stream is billed for what was written until the vendor noticed
that nobody reads. Usage is reported truthfully, the service tier that was billed too. `bills()` are the books.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from tests.support.lenient import BilledAttempt, VendorRefusal, VendorRequest, understood

_MARK = re.compile(rb"\[\[([a-z0-9]+)-([a-z0-9]+)-([a-z]+)(?:\.([0-9]+))?(-once)?\]\]")
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ERROR = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_CHUNKS = 64  # of a long answer


class GreedyServer:
    def __init__(self) -> None:
        self.books: dict[str, list[BilledAttempt]] = {}
        self.open = 0

    def handle(self, sock: Any, _address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = sock.makefile("rb")
        try:
            while (request := _read(reader)) is not None:
                if not self._serve(sock, *request):
                    return
        except OSError:
            pass
        finally:
            reader.close()
            sock.close()

    def _serve(self, sock: Any, path: bytes, body: bytes) -> bool:
        if path == b"/__bills":
            lines = {
                mark: [[a.nanousd(), a.reported, a.streamed, a.manner, a.model] for a in attempts]
                for mark, attempts in self.books.items()
            }
            sock.sendall(_whole(lines))
            return True
        mark = _MARK.search(body)
        if mark is None:
            raise AssertionError(f"a call without a mark: {body[:300]!r}")
        attempts = self.books.setdefault(f"{mark[1].decode()}-{mark[2].decode()}", [])
        manner, number = mark[3].decode(), int(mark[4] or 0)
        if mark[5] and attempts:
            manner = "ok"
        try:
            asked = understood(body, path.endswith(b"/embeddings"), zlib.crc32(mark[0]) + len(attempts))
        except VendorRefusal as exc:
            sock.sendall(_refusal(400, str(exc)))
            return True
        attempt = BilledAttempt(asked.model, manner, streamed=asked.stream)
        attempts.append(attempt)
        if manner == "refuse":
            sock.sendall(_refusal(number, "no"))
            return True
        attempt.prompt, attempt.audio_in, attempt.tier = asked.prompt, asked.audio_in, asked.tier
        attempt.searches, attempt.extra = asked.searches, asked.prediction
        if asked.stream and manner != "fail":
            return self._stream(sock, asked, attempt, manner, number)
        attempt.written = asked.tokens * asked.choices
        attempt.audio_out = attempt.written // 2 if asked.speaks else 0
        if manner in ("slow", "stall", "pace"):
            gevent.sleep(number / 1000)
        elif manner == "fail":
            gevent.sleep(0.02)
            sock.sendall(_refusal(number, "late"))
            return True
        elif manner in ("cut", "error"):
            gevent.sleep(0.02)
            return False
        sock.sendall(_whole(_embedding(attempt) if path.endswith(b"/embeddings") else _completion(asked, attempt)))
        attempt.reported = True
        return True

    def _stream(self, sock: Any, asked: VendorRequest, attempt: BilledAttempt, manner: str, number: int) -> bool:
        total = asked.tokens * asked.choices
        # What it thinks before it speaks is billed, and nobody sees it.
        attempt.written = total // 2 if asked.thinks else 0
        if manner in ("slow", "stall"):
            gevent.sleep(number / 1000)
        if _closed(sock):
            return False
        sock.sendall(_SSE)
        each = max(1, total // _CHUNKS)
        chunks = 0
        while attempt.written < total:
            if manner in ("cut", "error") and chunks >= number:
                break
            now = min(each, total - attempt.written)
            attempt.written += now
            sock.sendall(_event(_chunk(asked, attempt, "tok " * now, chunks % asked.choices)))
            chunks += 1
            gevent.sleep(number / 1000 if manner == "pace" else 0)
            if _closed(sock):
                return False
        if manner == "cut":
            return False
        if manner == "error":
            sock.sendall(_event({"error": {"message": "overloaded"}}))
            return False
        if asked.speaks:
            attempt.audio_out = attempt.written // 2
        sock.sendall(_event(_chunk(asked, attempt, None, 0)))
        if asked.usage_wanted:
            last = {**_chunk(asked, attempt, None, 0), "choices": [], "usage": _usage(attempt, asked)}
            sock.sendall(_event(last))
        sock.sendall(_chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        attempt.reported = asked.usage_wanted
        return True


def _read(reader: Any) -> tuple[bytes, bytes] | None:
    """The next request's path and body; None when there is none."""
    line = reader.readline()
    if not line:
        return None
    length = 0
    while (header := reader.readline()) not in (b"\r\n", b""):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = reader.read(length)
    return (line.split(b" ")[1], body) if len(body) == length else None


def _closed(sock: Any) -> bool:
    """Tells if the other side hung up: nothing else can come in the middle of an answer."""
    sock.setblocking(False)
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.setblocking(True)


def _usage(attempt: BilledAttempt, asked: VendorRequest | None) -> dict[str, Any]:
    completion = attempt.written + attempt.extra
    usage: dict[str, Any] = {
        "prompt_tokens": attempt.prompt,
        "completion_tokens": completion,
        "total_tokens": attempt.prompt + completion,
    }
    if asked is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": 0, "audio_tokens": attempt.audio_in}
        usage["completion_tokens_details"] = {
            "reasoning_tokens": attempt.written // 2 if asked.thinks else 0,
            "audio_tokens": attempt.audio_out,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": attempt.extra,
        }
    return usage


def _completion(asked: VendorRequest, attempt: BilledAttempt) -> dict[str, Any]:
    text = "tok " * min(asked.tokens, 500)
    return {
        "id": "chatcmpl-greedy",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": asked.model,
        "service_tier": asked.tier,
        "usage": _usage(attempt, asked),
        "choices": [
            {"index": i, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "length"}
            for i in range(asked.choices)
        ],
    }


def _chunk(asked: VendorRequest, attempt: BilledAttempt, text: str | None, index: int) -> dict[str, Any]:
    delta, reason = ({}, "length") if text is None else ({"content": text}, None)
    return {
        "id": "chatcmpl-greedy",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": asked.model,
        "service_tier": asked.tier,
        "usage": None,
        "choices": [{"index": index, "delta": delta, "finish_reason": reason}],
    }


def _embedding(attempt: BilledAttempt) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0]}]
    usage = {"prompt_tokens": attempt.prompt, "total_tokens": attempt.prompt}
    return {"object": "list", "data": data, "model": attempt.model, "usage": usage}


def _event(value: Any) -> bytes:
    return _chunked(b"data: %b\n\n" % json.dumps(value).encode())


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _whole(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return _OK % (len(body), body)


def _refusal(status: int, why: str) -> bytes:
    body = json.dumps({"error": {"message": why, "type": "x", "param": None, "code": None}}).encode()
    return _ERROR % (status, len(body), body)


@dataclass(frozen=True)
class Bill:
    """The vendor's cost of one request that reached it."""

    nanousd: int
    reported: bool
    streamed: bool
    manner: str
    model: str


class GreedyVendor:
    """The vendor's process, for a test: `with GreedyVendor() as vendor: vendor.url`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.greedy"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> GreedyVendor:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def bills(self) -> dict[str, list[Bill]]:
        """By mark, `key-call`: every request that reached the vendor, in order."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__bills", timeout=60) as answer:
            return {mark: [Bill(*line) for line in lines] for mark, lines in json.load(answer).items()}


def main() -> None:
    server = StreamServer(("127.0.0.1", 0), GreedyServer().handle, backlog=4096)
    server.start()
    print(server.server_port, flush=True)
    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, partial(stopped.set))
    stopped.wait()


if __name__ == "__main__":
    main()
