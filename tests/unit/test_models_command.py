"""`flask models`: what is known of the configured models, and small calls that show whether their targets answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from click.testing import Result
from flask import Flask

from app.cli import register
from app.services import Services, build_services
from app.settings import load_settings
from tests.support.providers import scripted_server

CONFIG = """
providers:
  here: {kind: demo, script: {chunk_delay_s: 0}}
  vendor: {kind: openai, base_url: "%s"}
  dead: {kind: openai, base_url: "http://127.0.0.1:9/v1"}
  keyless: {kind: openai, base_url: "https://api.openai.com/v1", api_key: ""}
models:
  demo: {targets: [here], context_window: 9000, max_output_tokens: 700, capabilities: [tools, json_schema]}
  plain: {targets: [{provider: vendor, model: big}]}
  again: {targets: [{provider: vendor, model: big}]}
  broken: {targets: [dead], fallbacks: [here]}
  gpt-4o: {targets: [keyless]}
  vectors: {kind: embedding, targets: [here]}
"""
PRICES = '{vendor: {"*": {prompt: 100, completion: 200}}, dead: {"*": {prompt: 1}}}'
Reply = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


def completion(content: str = "OK", **message: Any) -> tuple[int, dict[str, Any]]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return 200, {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content, **message}}],
        "usage": usage,
    }


def refusal(status: int = 400) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": "Unsupported parameter", "type": "invalid_request_error"}}


class Shell:
    """The commands on a gateway whose `vendor` is played."""

    def __init__(self, directory: Path, url: str) -> None:
        (directory / "gateway.yaml").write_text(CONFIG % url)
        (directory / "prices.yaml").write_text(PRICES)
        env = {"GATEWAY_CONFIG": str(directory / "gateway.yaml"), "DATA_DIR": str(directory)}
        self.services: Services = build_services(load_settings(env))
        app = Flask(__name__)
        app.extensions["penstock"] = self.services
        register(app)
        self._runner = app.test_cli_runner()

    def __call__(self, *args: str) -> Result:
        return self._runner.invoke(args=["models", *args])

    def json(self, *args: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self(*args, "--format", "json").stdout)
        return rows


@pytest.fixture
def shell_with(tmp_path: Path) -> Iterator[Callable[[Reply], Shell]]:
    closing = []

    def build(reply: Reply) -> Shell:
        requests: list[bytes] = []

        def serve(sock: Any) -> None:
            asked = json.loads(requests[-1].partition(b"\r\n\r\n")[2])
            status, answer = reply(asked)
            data = json.dumps(answer).encode()
            kind = b"application/json"
            if asked.get("stream") and status == 200:
                chunk = {"choices": [{"index": 0, "delta": {"content": "OK"}}], "usage": None}
                final = {"choices": [], "usage": answer["usage"]}
                data = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in (chunk, final))
                data, kind = data + b"data: [DONE]\n\n", b"text/event-stream"
            sock.sendall(
                b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                % (status, kind, len(data), data)
            )

        server = scripted_server(serve, requests)
        url = server.__enter__()
        shell = Shell(tmp_path, url)
        closing.append((server, shell))
        return shell

    yield build
    for server, shell in closing:
        shell.services.close()
        server.__exit__(None, None, None)


def everything_works(asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if "tools" in asked:
        call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        return completion("", tool_calls=[call])
    if "response_format" in asked:
        return completion('{"city": "Paris"}')
    if "reasoning_effort" in asked:
        return completion("No.", reasoning_content="7 times 13.")
    return completion()


def nothing_else_works(asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if set(asked) & {"tools", "response_format"}:
        return completion("I would rather talk.")
    if "stream" in asked or isinstance(asked["messages"][0]["content"], list):
        return refusal()
    return completion()


def test_each_feature_that_works_is_told(shell_with: Callable[[Reply], Shell]) -> None:
    [row] = shell_with(everything_works).json("test", "plain")
    latency = row.pop("latency_ms")
    assert 0 <= latency < 30_000
    assert row == {
        "model": "plain",
        "target": "vendor/big",
        "reachable": "yes",
        "prompt": "100",
        "completion": "200",
        "stream": "yes",
        "tools": "yes",
        "json_schema": "yes",
        "images": "yes",
        "thinking": "yes",
        "cost_usd": "0.012",  # six calls of 10 and 5 tokens
        "errors": "",
    }


def test_features_that_are_refused_or_ignored_do_not_work(shell_with: Callable[[Reply], Shell]) -> None:
    result = shell_with(nothing_else_works)("test", "plain", "--format", "json")
    [row] = json.loads(result.stdout)
    assert result.exit_code == 0  # it answers
    assert sorted(row["errors"].split("; ")) == ["images: Unsupported parameter", "stream: Unsupported parameter"]
    assert [row[name] for name in ("stream", "tools", "json_schema", "images", "thinking")] == ["no"] * 5


def test_a_vendor_that_breaks_down_shows_nothing_about_the_feature(shell_with: Callable[[Reply], Shell]) -> None:
    [row] = shell_with(lambda asked: refusal(500) if "tools" in asked else completion()).json("test", "plain")
    assert (row["reachable"], row["tools"], row["images"]) == ("yes", "failed", "yes")


def test_a_target_that_does_not_answer_fails_the_command(shell_with: Callable[[Reply], Shell]) -> None:
    result = shell_with(everything_works)("test", "--quick")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        *("model", "target", "reachable", "latency_ms", "prompt", "completion"),
        *("stream", "tools", "json_schema", "images", "thinking", "cost_usd", "errors"),
    ]
    # Each target once, those without a key at the end.
    assert [line.split()[:3] for line in lines[1:]] == [
        ["demo", "here/demo", "yes"],
        ["plain", "vendor/big", "yes"],
        ["broken", "dead/broken", "no"],
        ["broken", "here/broken", "yes"],
        ["vectors", "here/vectors", "yes"],
        ["gpt-4o", "not", "asked"],
    ]
    assert "connect: The provider dead cannot be reached." in result.stdout


@pytest.mark.parametrize(("name", "code"), [("demo", 0), ("vectors", 0), ("gpt-4o", 1), ("nobody", 1)])
def test_one_model_can_be_named(shell_with: Callable[[Reply], Shell], name: str, code: int) -> None:
    assert shell_with(everything_works)("test", name).exit_code == code


def test_a_quick_test_is_one_call_to_each_target(shell_with: Callable[[Reply], Shell]) -> None:
    asked = []

    def reply(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        asked.append(body)
        return completion()

    shell_with(reply)("test", "plain", "--quick")
    assert [(body["model"], body["max_tokens"]) for body in asked] == [("big", 1024)]


def test_a_vendor_that_does_not_answer_is_not_waited_for_long(shell_with: Callable[[Reply], Shell]) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        gevent.sleep(30)
        return completion()

    shell = shell_with(reply)
    started = time.monotonic()
    result = shell("test", "plain", "--timeout", "1", "--format", "json")
    assert time.monotonic() - started < 20
    [row] = json.loads(result.stdout)
    assert (row["reachable"], row["stream"], result.exit_code) == ("no", None, 1)
    assert row["errors"].startswith("timeout")


def test_the_list_tells_what_is_known(shell_with: Callable[[Reply], Shell]) -> None:
    rows = {row.pop("model"): row for row in shell_with(everything_works).json("list")}
    assert rows["demo"] == {
        "kind": "chat",
        "context_window": 9000,
        "max_output_tokens": 700,
        "prompt": "0",
        "completion": "0",
        "capabilities": "tools json_schema",
        "missing": "",
    }
    assert (rows["plain"]["prompt"], rows["plain"]["context_window"]) == ("100", None)
    assert (rows["gpt-4o"]["context_window"], rows["gpt-4o"]["prompt"]) == (128_000, "2.5")
    assert rows["gpt-4o"]["missing"] == "keyless has no API key: set providers.keyless.api_key"
    assert (rows["vectors"]["kind"], rows["vectors"]["max_output_tokens"]) == ("embedding", None)
