"""`flask chat` in this process, against a played gateway that speaks OpenAI's wire format."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import Result
from flask import Flask

from app.cli import register
from app.cli.chat import _ChatSession, own_url
from app.cli.chat_client import ChatClient
from app.cli.rendering import terminal_safe
from app.runfile import RunFile, RunningGateway
from app.services import build_services
from app.settings import load_settings
from tests.support.upstream import Upstream

CONFIG = """
providers: {demo: {kind: demo}}
models: {fast: {targets: [{provider: demo, model: f1}]}}
"""
PRICES = "demo: {f1: {prompt: 1, completion: 2}}"


class FakeGateway:
    """A gateway that streams `pieces`, and records the requests it received."""

    def __init__(self) -> None:
        self.pieces: list[str] = ["Hello", " there."]
        self.models = ["fast", "smart"]
        self.unavailable: set[str] = set()
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        fake_gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake_gateway.keys.append(self.headers["Authorization"])
                data = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "x", "available": False}
                    if name in fake_gateway.unavailable
                    else {"id": name, "object": "model", "created": 0, "owned_by": "x"}
                    for name in fake_gateway.models
                ]
                self._send("application/json", json.dumps({"object": "list", "data": data}))

            def do_POST(self) -> None:
                fake_gateway.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                lines = [f"data: {json.dumps(event)}\n\n" for event in fake_gateway.events()]
                self._send("text/event-stream", "".join(lines) + "data: [DONE]\n\n")

            def _send(self, kind: str, text: str) -> None:
                self.send_response(200)
                for name, value in {"Content-Type": kind, "Connection": "close", **fake_gateway.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def events(self) -> Iterator[dict[str, Any]]:
        about = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "f1"}
        for piece in self.pieces:
            yield {**about, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        yield {**about, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {**about, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def fake_gateway() -> Iterator[FakeGateway]:
    gateway = FakeGateway()
    yield gateway
    gateway.close()


@pytest.fixture
def chat(tmp_path: Path, fake_gateway: FakeGateway) -> Iterator[Callable[..., Result]]:
    """Runs the command against the fake gateway."""
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    (tmp_path / "prices.yaml").write_text(PRICES)
    env = {
        "GATEWAY_CONFIG": str(tmp_path / "gateway.yaml"),
        "DATA_DIR": str(tmp_path),
        "PORT": str(fake_gateway.port),
        "DEV_API_KEY": "dev-key",
    }
    services = build_services(load_settings(env))
    app = Flask(__name__)
    app.extensions["penstock"] = services
    register(app)

    def run(*args: str, stdin: str | bytes = "", **environment: str) -> Result:
        return app.test_cli_runner().invoke(args=["chat", *args], input=stdin, env=environment)

    yield run
    services.close()


def test_one_question_is_answered_on_standard_output_and_nothing_else(
    chat: Callable[..., Result], fake_gateway: FakeGateway
) -> None:
    result = chat("Hi", "--system", "Be brief.")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Hello there.\n", "")
    assert fake_gateway.asked[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize(
    ("offered", "options", "asked"),
    [
        (["fast", "smart"], [], "fast"),
        (["fast", "auto", "smart"], [], "auto"),
        (["fast", "auto"], ["--model", "smart"], "smart"),
    ],
)
def test_the_model_is_the_named_one_or_auto_or_the_first_allowed_one(
    chat: Callable[..., Result], fake_gateway: FakeGateway, offered: list[str], options: list[str], asked: str
) -> None:
    fake_gateway.models = offered
    assert chat("Hi", *options).exit_code == 0
    assert fake_gateway.asked[0]["model"] == asked


def test_a_model_that_cannot_be_served_is_not_the_default(
    chat: Callable[..., Result], fake_gateway: FakeGateway
) -> None:
    fake_gateway.unavailable = {"fast"}
    assert chat("Hi").exit_code == 0
    assert fake_gateway.asked[0]["model"] == "smart"
    fake_gateway.unavailable = {"fast", "smart"}
    assert chat("Hi").exit_code == 0
    assert fake_gateway.asked[1]["model"] == "fast", "what it answers says what is missing"


def test_a_key_that_may_use_no_model_is_told_so(chat: Callable[..., Result], fake_gateway: FakeGateway) -> None:
    fake_gateway.models = []
    assert "this key may use no model" in failed(chat("Hi"))


def test_the_key_is_the_option_or_the_environments_or_the_development_key(
    chat: Callable[..., Result], fake_gateway: FakeGateway
) -> None:
    chat("Hi")
    chat("Hi", PENSTOCK_KEY="from-env")
    chat("Hi", "--key", "given", PENSTOCK_KEY="from-env")
    assert fake_gateway.keys == ["Bearer dev-key", "Bearer from-env", "Bearer given"]


@pytest.mark.parametrize(
    ("stdin", "question"),
    [("Hi\nyou", "Hi\nyou"), (b"\xff\x00 bytes", "\ufffd\x00 bytes"), ("Grüße 🙂".encode(), "Grüße 🙂")],
)
def test_what_comes_through_a_pipe_is_the_question(
    chat: Callable[..., Result], fake_gateway: FakeGateway, stdin: str | bytes, question: str
) -> None:
    assert chat(stdin=stdin).exit_code == 0
    assert fake_gateway.asked[0]["messages"] == [{"role": "user", "content": question}]


def test_verbose_tells_tokens_cost_and_time_on_standard_error(
    chat: Callable[..., Result], fake_gateway: FakeGateway
) -> None:
    fake_gateway.headers = {"x-penstock-model": "fast", "x-penstock-provider": "demo", "x-penstock-cache": "miss"}
    result = chat("Hi", "--verbose")
    assert result.stdout == "Hello there.\n"
    assert result.stderr.startswith("fast by demo · 7 + 5 tokens · $0.000017 · first text after ")
    fake_gateway.headers["x-penstock-cache"] = "hit"
    assert "· $0 (cached) ·" in chat("Hi", "--verbose").stderr


def test_no_cost_is_told_where_the_price_is_not_known(chat: Callable[..., Result], fake_gateway: FakeGateway) -> None:
    fake_gateway.headers = {"x-penstock-model": "fast", "x-penstock-provider": "demo"}
    assert "$" not in chat("Hi", "--verbose", "--url", fake_gateway.url).stderr  # another gateway has prices of its own
    fake_gateway.headers = {}
    assert "$" not in chat("Hi", "--verbose").stderr


def failed(result: Result) -> str:
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, "one line"
    assert result.stderr[:-1].isprintable()
    return result.stderr


@pytest.mark.parametrize(
    ("model", "shown", "reason"),
    [
        ("status-429", "", "messages: Upstream says 429"),
        ("reset", "", ": "),
        ("cut-3", "tok tok tok \n", ": "),
        ("cleancut-3", "tok tok tok \n", "the answer broke off"),
        ("errorevent-2", "tok tok \n", "error: overloaded"),
        ("html", "", "the answer broke off"),
        ("garbage", "", "the answer broke off"),
    ],
)
def test_what_fails_is_one_line_after_what_was_answered(
    chat: Callable[..., Result], upstream: Upstream, model: str, shown: str, reason: str
) -> None:
    result = chat("Hi", "--url", upstream.url, "--model", model)
    assert result.stdout == shown
    assert reason.removeprefix("messages: ") in failed(result)
    assert upstream.served()["calls"] == 1, "the person decides whether to try again"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["Hi", "--url", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1: Connection refused"),
        (["Hi", "--url", "ftp://x"], "--url: expected http://… or https://…, not 'ftp://x'"),
        (["Hi", "--url", "http://x:y/v1"], "'http://x:y/v1' is no address: "),
        (["Hi", "--url", "http://x\x1b/v1"], "'http://x\\x1b/v1' is no address: "),
        (["Hi", "--key", "schlüssel"], "--key: has characters that no key has"),
        (["Hi", "--key", "a\nb"], "--key: has characters that no key has"),
        ([" \n "], "There is no question."),
        ([], "There is no question."),
    ],
)
def test_a_wrong_option_is_one_line(chat: Callable[..., Result], options: list[str], reason: str) -> None:
    assert reason in failed(chat(*options))


def test_without_any_key_the_command_says_where_to_put_one(tmp_path: Path) -> None:
    settings = SimpleNamespace(dev_api_key=None)
    app = Flask(__name__)
    app.extensions["penstock"] = SimpleNamespace(settings=settings)
    register(app)
    assert "There is no key: --key or PENSTOCK_KEY" in failed(app.test_cli_runner().invoke(args=["chat", "Hi"]))


def test_a_question_that_is_too_long_is_not_read_to_its_end(
    chat: Callable[..., Result], fake_gateway: FakeGateway
) -> None:
    assert "longer than 10485760 bytes" in failed(chat(stdin="x" * 10_485_761))
    assert fake_gateway.asked == []


def test_nothing_in_an_answer_steers_the_terminal(chat: Callable[..., Result], fake_gateway: FakeGateway) -> None:
    # Split between chunks, too: an escape sequence's parts are harmless only if its first byte is.
    fake_gateway.pieces = [
        "\x1b",
        "]0;owned\x07",
        "\x9b31m",
        "a\rb\r\n",
        "\ud83d",
        "\u202egpj.exe",
        "\x08\x7f\x00",
        "👩‍🔬\tü\n",
    ]
    shown = chat("Hi").stdout
    assert shown == "␛]0;owned␇\ufffd31mab\n\ufffd\ufffdgpj.exe␈\ufffd␀👩‍🔬\tü\n"


def test_nothing_in_an_error_steers_the_terminal(chat: Callable[..., Result], fake_gateway: FakeGateway) -> None:
    fake_gateway.headers = {"x-penstock-model": "\x1b[31mred"}
    assert "\x1b" not in chat("Hi", "--verbose").stderr
    assert "\x1b" not in failed(chat("Hi", "--url", "\x1b[31mred"))


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xD800])
def test_no_control_character_is_left(code: int) -> None:
    left = terminal_safe(f"a{chr(code)}b")
    assert chr(code) not in left or chr(code) in "\n\t"
    left.encode()


def test_a_conversation_remembers_what_was_said_and_forgets_what_failed(
    fake_gateway: FakeGateway, upstream: Upstream
) -> None:
    talk = ChatClient(url=fake_gateway.url, key="k", system="Be brief.")
    shown: list[str] = []
    talk.ask("One", shown.append)
    assert shown == ["Hello", " there."]
    finish, fake_gateway.events = fake_gateway.events, lambda: iter(())  # type: ignore[method-assign]
    with pytest.raises(click.ClickException, match="broke off"):
        talk.ask("Lost", shown.append)
    fake_gateway.events = finish  # type: ignore[method-assign]
    talk.ask("Two", shown.append)
    assert [(m["role"], m["content"]) for m in fake_gateway.asked[-1]["messages"]] == [
        ("system", "Be brief."),
        ("user", "One"),
        ("assistant", "Hello there."),
        ("user", "Two"),
    ]


def test_an_answer_that_was_stopped_is_remembered_as_far_as_it_came(fake_gateway: FakeGateway) -> None:
    talk = ChatClient(url=fake_gateway.url, key="k")

    def interrupted(_text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk.ask("One", interrupted)
    talk.ask("Two", lambda _: None)
    assert [m["content"] for m in fake_gateway.asked[-1]["messages"]] == ["One", "Hello", "Two"]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::", "http://[::1]:8000/v1"),
        ("gateway", "http://gateway:8000/v1"),
    ],
)
def test_the_gateway_of_the_settings_is_found_where_it_listens(tmp_path: Path, host: str, url: str) -> None:
    environ = {"DATA_DIR": str(tmp_path), "HOST": host}
    services: Any = SimpleNamespace(settings=load_settings(environ))
    assert own_url(services) == url


def test_the_gateway_of_this_data_dir_is_found_unless_port_says_otherwise(tmp_path: Path) -> None:
    held = RunFile(tmp_path)
    held.write(RunningGateway(1, "0.0.0.0", 9000))

    def url(**environ: str) -> str:
        services: Any = SimpleNamespace(settings=load_settings({"DATA_DIR": str(tmp_path), **environ}))
        return own_url(services)

    assert url() == "http://127.0.0.1:9000/v1"
    assert url(PORT="9001") == "http://127.0.0.1:9001/v1"
    os.close(held.fd)
    assert url() == "http://127.0.0.1:8000/v1", "what is left of a run that has ended says nothing"


def test_ctrl_c_stops_the_answer_also_where_its_exception_got_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Forgetful:
        model = "m"

        def ask(self, _question: str, show: Callable[[str], None]) -> None:
            show("before")
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.sigtimedwait([], 5)  # somewhere in here it comes up
            except KeyboardInterrupt:
                pass
            show("after")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        _ChatSession(Forgetful(), None, verbose=False).answer_once("Hi")  # type: ignore[arg-type]
    assert ended.value.code == 130
    assert capsys.readouterr().out == "before\n"
    assert signal.getsignal(signal.SIGINT) is before
