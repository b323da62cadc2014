"""A greedy vendor, played: it writes the most that a request lets it, bills all of it, and keeps its own books.

A process of its own: `python -m tests.support.greedy`, which prints its port. It reads a body as a lenient vendor does:
names of fields in any case, the last of two wins, the larger of two bounds counts, and without a bound it writes as much
as its model can. A call is known by a mark anywhere in its body, `[[key-call-manner]]`; the manner is what it does:

    ok              answers                          slow.MS    … after a silence       pace.MS   … a chunk every MS
    stall.MS        silent for long, then answers    cut.N      the connection dies after N chunks, or instead of an answer
    error.N         an error event after N chunks    fail.CODE  an error after all was written; billed
    refuse.CODE     an error at once; not billed     …-once     only the first attempt does so; later ones are ok

A whole answer is billed as soon as it is asked for. A stream is billed for what was written until the vendor noticed that
nobody reads. Usage is reported truthfully, the service tier that was billed too. `bills()` are the books.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
import warnings
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

LONGEST = 32_768  # tokens that a model can write, whatever it is asked for
TOKENS_OF_FILE = 60_000  # nobody can tell from its id, nor from compressed bytes
TOKENS_OF_IMAGE = {"low": 85, "high": 2_000}
# What the models cost that prices.yaml names: nano-dollars a token, prompt and completion.
PRICED_HERE = {"plain": (500, 2_000), "dear": (5_000, 20_000), "backup": (1_000, 5_000), "vectors": (400, 0)}
# And those whose price genai-prices knows.
PRICED_THERE = frozenset({
    "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5-mini", "gpt-5-nano", "gpt-audio-mini", "text-embedding-3-small",
})  # fmt: skip
_MARK = re.compile(rb"\[\[([a-z0-9]+)-([a-z0-9]+)-([a-z]+)(?:\.([0-9]+))?(-once)?\]\]")
_PIECES = re.compile(r"[A-Za-z]{1,6}|[0-9]{1,3}|[^\sA-Za-z0-9]")
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_ERROR = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_CHUNKS = 64  # of a long answer


def prices_yaml(provider: str) -> str:
    """`PRICED_HERE` as the gateway wants it: dollars per million tokens."""
    rows = (f"  {name}: {{prompt: {p / 1000}, completion: {c / 1000}}}" for name, (p, c) in PRICED_HERE.items())
    return f"{provider}:\n" + "\n".join(rows) + "\n"


class Refused(Exception):
    """The vendor's 400: nothing is billed."""


@dataclass
class Attempt:
    """One line of the books: a request that reached the vendor, and what it took."""

    model: str
    manner: str
    tier: str = "default"
    prompt: int = 0
    audio_in: int = 0
    written: int = 0
    audio_out: int = 0
    searches: int = 0
    extra: int = 0  # completion tokens beyond the bound: rejected predictions
    streamed: bool = False
    reported: bool = False  # the usage went out, in full

    def nanousd(self) -> int:
        """The exact bill, rounded down."""
        completion = self.written + self.extra
        if self.model in PRICED_HERE:
            prompt_rate, completion_rate = PRICED_HERE[self.model]
            return self.prompt * prompt_rate + completion * completion_rate
        from genai_prices import Usage, calc_price

        counts: dict[str, int] = {"input_tokens": self.prompt, "output_tokens": completion}
        optional = {
            "input_audio_tokens": self.audio_in, "output_audio_tokens": self.audio_out, "web_searches": self.searches
        }  # fmt: skip
        counts |= {name: count for name, count in optional.items() if count}
        context = {"service_tier": self.tier} if self.tier != "default" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = calc_price(Usage(**counts), self.model, provider_id="openai", price_context=context)  # type: ignore[arg-type]
        return int(found.total_price * 1_000_000_000)


@dataclass
class Asked:
    """A request as the vendor understands it."""

    model: str
    prompt: int
    audio_in: int
    tokens: int  # that each choice will have
    choices: int
    stream: bool
    usage_wanted: bool
    tier: str
    thinks: bool
    speaks: bool
    searches: int
    prediction: int
    fields: dict[str, Any] = field(repr=False)


class Vendor:
    def __init__(self) -> None:
        self.books: dict[str, list[Attempt]] = {}
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
            asked = _understood(body, path.endswith(b"/embeddings"), zlib.crc32(mark[0]) + len(attempts))
        except Refused as exc:
            sock.sendall(_refusal(400, str(exc)))
            return True
        attempt = Attempt(asked.model, manner, streamed=asked.stream)
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

    def _stream(self, sock: Any, asked: Asked, attempt: Attempt, manner: str, number: int) -> bool:
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
    """Whether the other side hung up: nothing else can come in the middle of an answer."""
    sock.setblocking(False)
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.setblocking(True)


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.lower(): value for name, value in pairs}


def _understood(body: bytes, embeddings: bool, chance: int) -> Asked:
    try:
        fields = json.loads(body, object_pairs_hook=_merged)
    except (ValueError, RecursionError) as exc:
        raise Refused("no JSON") from exc
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        raise Refused("no model")
    model = fields["model"]
    if model not in PRICED_HERE and model not in PRICED_THERE:
        raise Refused(f"no such model: {model}")
    if embeddings:
        return Asked(model, _tokens(fields.get("input")), 0, 0, 1, False, False, "default", False, False, 0, 0, fields)
    prompt, audio_in = _prompt(fields)
    bounds = [_whole_number(fields.get(name), name) for name in ("max_tokens", "max_completion_tokens")]
    # Zero and less is what a lenient parser takes for "not set".
    bound = max((b for b in bounds if b is not None and b > 0), default=LONGEST)
    choices = _whole_number(fields.get("n"), "n")
    if choices is not None and not 1 <= choices <= 128:
        raise Refused("n")
    options = fields.get("stream_options")
    searches = 1 if fields.get("web_search_options") is not None else 0
    if searches and model in PRICED_HERE:
        raise Refused("web_search_options")
    speaks = "audio" in (fields.get("modalities") or ())
    if (speaks or audio_in) and model != "gpt-audio-mini":
        raise Refused("modalities")
    prediction = fields.get("prediction")
    return Asked(
        model=model, prompt=prompt, audio_in=audio_in, tokens=min(bound, LONGEST), choices=choices or 1,
        stream=fields.get("stream") is True,
        usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
        tier=_tier(fields.get("service_tier"), chance), speaks=speaks, searches=searches,
        thinks=fields.get("reasoning_effort") in ("medium", "high"),
        prediction=_tokens(prediction.get("content")) if isinstance(prediction, dict) else 0, fields=fields,
    )  # fmt: skip


def _whole_number(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise Refused(name)
    return int(value)


def _tier(wanted: Any, chance: int) -> str:
    """What it bills: what was asked for, its standard, or the dearest, as it likes."""
    if wanted is not None and not isinstance(wanted, str):
        raise Refused("service_tier")
    return ("priority", wanted if wanted in ("flex", "priority") else "default", "default")[chance % 3]


def _prompt(fields: dict[str, Any]) -> tuple[int, int]:
    """Prompt tokens, and those of them that are audio."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages")
    count, audio = 0, 0
    for message in messages:
        if not isinstance(message, dict):
            raise Refused("messages")
        count += 4
        content = message.get("content")
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if not isinstance(part, dict):
                raise Refused("content")
            kind = part.get("type")
            if kind == "image_url":
                image = part.get("image_url")
                detail = image.get("detail") if isinstance(image, dict) else None
                count += TOKENS_OF_IMAGE["low" if detail == "low" else "high"]
            elif kind == "input_audio":
                audio += len(json.dumps(part)) // 10
            elif kind in ("text", "refusal"):
                count += _tokens(part.get("text"))
            else:  # files, videos and what else there may be
                count += TOKENS_OF_FILE
        count += _tokens(message.get("tool_calls"))
    return count + audio + sum(_tokens(fields.get(name)) for name in ("tools", "functions", "response_format")), audio


def _tokens(value: Any) -> int:
    """Rough, and honest: never more than a byte-level vocabulary has for it."""
    if value is None:
        return 0
    if isinstance(value, list) and all(isinstance(each, int) for each in value):
        return len(value)
    if isinstance(value, list) and all(isinstance(each, str | list) for each in value):
        return sum(_tokens(each) for each in value)
    return len(_PIECES.findall(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


def _usage(attempt: Attempt, asked: Asked | None) -> dict[str, Any]:
    completion = attempt.written + attempt.extra
    usage: dict[str, Any] = {
        "prompt_tokens": attempt.prompt, "completion_tokens": completion, "total_tokens": attempt.prompt + completion
    }  # fmt: skip
    if asked is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": 0, "audio_tokens": attempt.audio_in}
        usage["completion_tokens_details"] = {
            "reasoning_tokens": attempt.written // 2 if asked.thinks else 0, "audio_tokens": attempt.audio_out,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": attempt.extra,
        }  # fmt: skip
    return usage


def _completion(asked: Asked, attempt: Attempt) -> dict[str, Any]:
    text = "tok " * min(asked.tokens, 500)
    return {
        "id": "chatcmpl-greedy", "object": "chat.completion", "created": 1_700_000_000, "model": asked.model,
        "service_tier": asked.tier, "usage": _usage(attempt, asked),
        "choices": [
            {"index": i, "message": {"role": "assistant", "content": text, "refusal": None}, "finish_reason": "length"}
            for i in range(asked.choices)
        ],
    }  # fmt: skip


def _chunk(asked: Asked, attempt: Attempt, text: str | None, index: int) -> dict[str, Any]:
    delta, reason = ({}, "length") if text is None else ({"content": text}, None)
    return {
        "id": "chatcmpl-greedy", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": asked.model,
        "service_tier": asked.tier, "usage": None, "choices": [{"index": index, "delta": delta, "finish_reason": reason}],
    }  # fmt: skip


def _embedding(attempt: Attempt) -> dict[str, Any]:
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
    """What one request that reached the vendor cost there."""

    nanousd: int
    reported: bool
    streamed: bool
    manner: str
    model: str


class Greedy:
    """The vendor's process, for a test: `with Greedy() as vendor: vendor.url`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.greedy"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Greedy:
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
    server = StreamServer(("127.0.0.1", 0), Vendor().handle, backlog=4096)
    server.start()
    print(server.server_port, flush=True)
    stopped = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, partial(stopped.set))
    stopped.wait()


if __name__ == "__main__":
    main()
