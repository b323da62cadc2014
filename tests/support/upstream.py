"""A fake vendor: a server that speaks OpenAI's wire format, faults included, and counts the requests it served.

A process of its own: `python -m tests.support.upstream`, which prints its port. What it does is chosen by the
model's name, parts joined by "-":

    usage-P-C[-K-R]  P prompt, C completion, K cached, R reasoning tokens    slow-MS[-KB] silence before the headers
    stream-N-MS      N chunks, MS apart (the default streams 5 at once)      silent       no answer at all
    silentmid-N      silence after N chunks          cut-N        the connection dies after N chunks
    cutchunk-N       … in the middle of a chunk      cleancut-N   a clean end after N chunks, without [DONE]
    status-CODE[-S]  an error (Retry-After: S)       html | garbage | nousage | empty | reset | closeidle
    errorevent-N     an error event after N chunks   flaky-N-KEY  500 for the first N calls with KEY
    echo             answers with the request it got tools       a tool call       big-KB   a long answer

A request whose `metadata.bill` is a JSON object gets an answer with the fields of that object (`usage`, and perhaps
`service_tier`), whatever the model.
"""

from __future__ import annotations

import argparse
import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ERROR = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
# One word is one token, so that what was served can be told to the token.
_CHUNK = (
    b'data: {"id":"chatcmpl-up","object":"chat.completion.chunk","created":1700000000,"model":"up",'
    b'"choices":[{"index":0,"delta":{"content":"tok "},"finish_reason":null}],"usage":null}\n\n'
)
_FINISH = _CHUNK.replace(b'{"content":"tok "}', b"{}").replace(b'"finish_reason":null', b'"finish_reason":"stop"')
_USAGE_CHUNK = (
    b'data: {"id":"chatcmpl-up","object":"chat.completion.chunk","created":1700000000,"model":"up","choices":[],'
    b'"usage":%b}\n\n'
)
_DONE = b"data: [DONE]\n\n"
_COMPLETION = (
    b'{"id":"chatcmpl-up","object":"chat.completion","created":1700000000,"model":"up","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":%b,"refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":%b}'
)
_TOOL_COMPLETION = (
    b'{"id":"chatcmpl-up","object":"chat.completion","created":1700000000,"model":"up","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":'
    b'{"name":"get_weather","arguments":"{\\"city\\":\\"Ulm\\"}"}}]},"finish_reason":"tool_calls"}],"usage":%b}'
)
_PLAIN_USAGE = b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}'
_PLAIN = _OK % (len(_COMPLETION % (b'"Hello there."', _PLAIN_USAGE)), _COMPLETION % (b'"Hello there."', _PLAIN_USAGE))


class VendorState:
    """The requests served so far, and the rules by which they are served."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.counts: Counter[str] = Counter()
        self.by_model: Counter[str] = Counter()
        self.flaky: Counter[str] = Counter()

    def served(self) -> dict[str, Any]:
        return {**self.counts, "by_model": dict(self.by_model)}

    def handle(self, sock: Any, _address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = sock.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = 0
                at = head.lower().find(b"content-length:")
                if at >= 0:
                    length = int(head[at + 15 :].split(b"\r\n", 1)[0])
                while len(buffer) < length:
                    data = sock.recv(65536)
                    if not data:
                        return
                    buffer += data
                body, buffer = buffer[:length], buffer[length:]
                if not self.answer(sock, head, body):
                    return
        except OSError:
            pass
        finally:
            sock.close()

    def answer(self, sock: Any, head: bytes, body: bytes) -> bool:
        """Answers one request; whether the connection goes on."""
        method, path, _ = head.split(b" ", 2)
        if method == b"GET":
            sock.sendall(_json(self.served() if path == b"/__served" else {"object": "list", "data": []}))
            return True
        if path == b"/__reset":
            self.reset()
            sock.sendall(_json({}))
            return True
        request = json.loads(body)
        name = request["model"]
        self.counts["calls"] += 1
        self.by_model[name] += 1
        if path.endswith(b"/embeddings") and name != "silent":
            return self.embed(sock, request)
        bill = (request.get("metadata") or {}).get("bill")
        if bill is not None:
            return self.billed(sock, json.loads(bill), streamed=bool(request.get("stream")))
        kind, *rest = name.split("-")
        numbers = [int(part) for part in rest if part.isdigit()]
        early = self.early_fault(sock, kind, rest, numbers)
        if early is not None:
            return early
        if request.get("stream"):
            return self.stream(sock, request, kind, numbers)
        return self.complete(sock, request, kind, numbers, head, body)

    def early_fault(self, sock: Any, kind: str, rest: list[str], numbers: list[int]) -> bool | None:
        """The faults that come before any headers, or instead of an answer. None: no fault."""
        if kind == "slow":
            gevent.sleep(numbers[0] / 1000)
        elif kind == "silent":
            self.wait_for_hangup(sock)
            return False
        elif kind == "reset":
            return False
        elif kind == "status":
            retry = b"Retry-After: %d\r\n" % numbers[1] if len(numbers) > 1 else b""
            sock.sendall(_error(numbers[0], retry))
            return True
        elif kind == "flaky":
            self.flaky[rest[1]] += 1
            if self.flaky[rest[1]] <= numbers[0]:
                sock.sendall(_error(500))
                return True
        elif kind == "html":
            page = b"<html><body>Bad gateway sk-secret1234567890</body></html>"
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
            )
            return True
        elif kind == "garbage":
            sock.sendall(_OK % (5, b'{"cho'))
            return True
        elif kind == "nothttp":
            sock.sendall(b"SMTP 220 hello\r\n\r\n")
            return False
        return None

    def complete(
        self, sock: Any, request: dict[str, Any], kind: str, numbers: list[int], head: bytes, body: bytes
    ) -> bool:
        if kind == "slow" and len(numbers) > 1:
            kind, numbers = "big", numbers[1:]
        if kind not in ("usage", "echo", "tools", "big", "nousage", "empty", "closeidle"):
            self.count(10, 5)
            sock.sendall(_PLAIN)
            return True
        usage = self.usage(kind, numbers)
        content = b'"Hello there."'
        if kind == "echo":
            content = json.dumps(f"{head.decode('latin-1')}\n\n{body.decode()}").encode()
        elif kind == "big":
            content = b'"' + b"x" * numbers[0] * 1024 + b'"'
        answer = _TOOL_COMPLETION % usage if kind == "tools" else _COMPLETION % (content, usage)
        if kind == "nousage":
            answer = answer[: answer.rindex(b',"usage"')] + b"}"
        elif kind == "empty":
            answer = b""
        sock.sendall(_OK % (len(answer), answer))
        return kind != "closeidle"

    def stream(self, sock: Any, request: dict[str, Any], kind: str, numbers: list[int]) -> bool:
        chunks, pause_s = (numbers[0], numbers[1] / 1000) if kind == "stream" else (5, 0.0)
        stop_after = numbers[0] if kind in ("cut", "cutchunk", "cleancut", "silentmid", "errorevent") else chunks
        if kind == "usage":
            chunks = stop_after = numbers[1]
        counts = self.counts
        counts["open_streams"] += 1
        sent = 0
        try:
            sock.sendall(_SSE)
            for _ in range(min(chunks, stop_after)):
                if sent and pause_s:
                    gevent.sleep(pause_s)
                sock.sendall(_chunked(_CHUNK))
                sent += 1
            if kind == "silentmid":
                self.wait_for_hangup(sock)
            elif kind == "cutchunk":
                sock.sendall(b"%x\r\n%b" % (len(_CHUNK), _CHUNK[:20]))
            elif kind == "cleancut":
                sock.sendall(b"0\r\n\r\n")
            elif kind == "errorevent":
                sock.sendall(_chunked(b'data: {"error":{"message":"overloaded sk-secret1234567890"}}\n\n'))
            if kind in ("silentmid", "cutchunk", "cleancut", "errorevent", "cut"):
                counts["aborted"] += 1
                counts["aborted_tokens"] += sent
                return False
            self.end(sock, request, kind, numbers, sent)
            return True
        except OSError:
            counts["aborted"] += 1
            counts["aborted_tokens"] += sent
            raise
        finally:
            counts["open_streams"] -= 1

    def end(self, sock: Any, request: dict[str, Any], kind: str, numbers: list[int], sent: int) -> None:
        end = _FINISH
        if (request.get("stream_options") or {}).get("include_usage") and kind != "nousage":
            prompt = numbers[0] if kind == "usage" else 10
            usage = {"prompt_tokens": prompt, "completion_tokens": sent, "total_tokens": prompt + sent}
            end += _USAGE_CHUNK % json.dumps(usage).encode()
        sock.sendall(_chunked(end + _DONE) + b"0\r\n\r\n")
        self.count(numbers[0] if kind == "usage" else 10, sent)

    def billed(self, sock: Any, bill: dict[str, Any], *, streamed: bool) -> bool:
        usage = bill["usage"]
        self.count(usage["prompt_tokens"], usage["completion_tokens"])
        if not streamed:
            sock.sendall(_json({**json.loads(_COMPLETION % (b'"Hello there."', b"{}")), **bill}))
            return True
        last = {**json.loads((_USAGE_CHUNK % b"{}").split(b": ", 1)[1]), **bill}
        chunk = b"data: %b\n\n" % json.dumps(last).encode()
        sock.sendall(_SSE + _chunked(_CHUNK + _FINISH + chunk + _DONE) + b"0\r\n\r\n")
        return True

    def embed(self, sock: Any, request: dict[str, Any]) -> bool:
        self.count(7, 0)
        vector = "AACAPwAAAAA=" if request.get("encoding_format") == "base64" else [1.0, 0.0]
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        sock.sendall(_json({"object": "list", "data": data, "model": "up", "usage": usage}))
        return True

    def usage(self, kind: str, numbers: list[int]) -> bytes:
        prompt, completion, cached, reasoning = [*numbers, 0, 0][:4] if kind == "usage" else (10, 5, 0, 0)
        self.count(prompt, completion)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
        return json.dumps(usage).encode()

    def count(self, prompt: int, completion: int) -> None:
        self.counts["completed"] += 1
        self.counts["prompt_tokens"] += prompt
        self.counts["completion_tokens"] += completion

    def wait_for_hangup(self, sock: Any) -> None:
        counts = self.counts  # the ones of this test: a reset begins new ones
        counts["waiting"] += 1
        try:
            sock.recv(1)
        finally:
            counts["waiting"] -= 1


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _json(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return _OK % (len(body), body)


def _error(status: int, headers: bytes = b"") -> bytes:
    message = f"Upstream says {status}: your prompt about sk-secret1234567890 is bad."
    body = json.dumps({"error": {"message": message, "type": "x", "param": "messages", "code": None}}).encode()
    return _ERROR % (status, headers, len(body), body)


class Upstream:
    """The fake vendor's process, for a test: `with Upstream() as upstream: upstream.url`."""

    module = "tests.support.upstream"

    def __init__(self, *, certificate: tuple[Path, Path] | None = None) -> None:
        command = [sys.executable, "-m", self.module]
        if certificate is not None:
            command += ["--certificate", str(certificate[0]), "--private-key", str(certificate[1])]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def served(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__served", timeout=5) as answer:
            return Counter(json.load(answer))

    def reset(self) -> None:
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/__reset", data=b"{}", timeout=5).close()

    def wait_until(self, name: str, value: int, timeout_s: float = 5.0) -> None:
        """Waits until the count `name` is `value`. Raises AssertionError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.served().get(name, 0) != value:
            assert time.monotonic() < deadline, f"{name} is {self.served().get(name, 0)}, not {value}"
            gevent.sleep(0.02)  # lets this process's own sockets close, where they are gevent's


def main(state: VendorState) -> None:
    """Serves until SIGTERM."""
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--certificate")
    options.add_argument("--private-key")
    chosen = options.parse_args()
    tls: dict[str, Any] = {}
    if chosen.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chosen.certificate, chosen.private_key)
        tls = {"ssl_context": context}
    server = StreamServer(("127.0.0.1", chosen.port), state.handle, backlog=4096, **tls)
    server.start()
    print(server.server_port, flush=True)
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    gevent.signal_handler(signal.SIGINT, stopped.set)
    stopped.wait()


if __name__ == "__main__":
    main(VendorState())
