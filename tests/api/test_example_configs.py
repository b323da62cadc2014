"""The example of each vendor in config/examples: valid, with known prices, and its calls have the vendor's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner

from app.cli.config import check_config
from app.config.files import load_config, load_prices
from app.gateway.pricing import Pricing
from app.providers import KINDS
from tests.api.conftest import AppClient
from tests.support.providers import scripted_server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "config" / "examples"
FILES = sorted(path for path in EXAMPLES.glob("*.yaml") if path.name != "prices.yaml")
VARIABLE = re.compile(r"\$\{(\w+)[^}]*\}")
ANTHROPIC, GEMINI = "https://api.anthropic.com", "https://generativelanguage.googleapis.com"
DEFAULT_URLS = {"anthropic": ANTHROPIC, "gemini": GEMINI}
# By file and model: the host that is asked, the request line, and headers that the vendor wants to see.
BEARER = "authorization: Bearer key-of-%s"
CALLS: list[tuple[str, str, str, str, list[str]]] = [
    ("openai", "gpt-6.1-sol", "api.openai.com", "/v1/chat/completions", [BEARER % "OPENAI_API_KEY"]),
    (
        "azure",
        "gpt-4.1",
        "YOUR-RESOURCE.openai.azure.com",
        "/openai/v1/chat/completions",
        ["api-key: key-of-AZURE_OPENAI_API_KEY"],
    ),
    (
        "azure",
        "gpt-4o",
        "YOUR-RESOURCE.openai.azure.com",
        "/openai/deployments/gpt-4o-2024-08-06/chat/completions?api-version=2024-10-21",
        ["api-key: key-of-AZURE_OPENAI_API_KEY"],
    ),
    (
        "anthropic",
        "claude-opus-5-5",
        "api.anthropic.com",
        "/v1/messages",
        ["x-api-key: key-of-ANTHROPIC_API_KEY", "anthropic-version: 2023-06-01"],
    ),
    (
        "gemini",
        "gemini-3.8-flash",
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini-3.8-flash:generateContent",
        ["x-goog-api-key: key-of-GEMINI_API_KEY"],
    ),
    ("vllm", "qwen3", "vllm:8000", "/v1/chat/completions", [BEARER % "VLLM_API_KEY"]),
    ("tgi", "qwen3", "tgi:80", "/v1/chat/completions", []),
    ("ollama", "qwen3", "ollama:11434", "/v1/chat/completions", []),
    ("llama-cpp", "qwen3", "llama:8080", "/v1/chat/completions", [BEARER % "LLAMA_API_KEY"]),
    (
        "openrouter",
        "claude-sonnet",
        "openrouter.ai",
        "/api/v1/chat/completions",
        [BEARER % "OPENROUTER_API_KEY", "http-referer: https://llm.example.org", "x-title: Penstock"],
    ),
    ("mistral", "mistral-medium-latest", "api.mistral.ai", "/v1/chat/completions", [BEARER % "MISTRAL_API_KEY"]),
    ("groq", "gpt-oss-120b", "api.groq.com", "/openai/v1/chat/completions", [BEARER % "GROQ_API_KEY"]),
    ("deepseek", "deepseek-v4-pro", "api.deepseek.com", "/chat/completions", [BEARER % "DEEPSEEK_API_KEY"]),
    (
        "deepseek",
        "deepseek-v4-flash",
        "api.deepseek.com",
        "/anthropic/v1/messages",
        ["x-api-key: key-of-DEEPSEEK_API_KEY"],
    ),
]
ANSWERS: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    },
    "/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
    ":generateContent": {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": "Hello."}]}, "finishReason": "STOP", "index": 0}
        ],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
    },
}


def environment(text: str) -> dict[str, str]:
    return {name: f"key-of-{name}" for name in VARIABLE.findall(text)}


@pytest.fixture
def requests() -> list[bytes]:
    return []


@pytest.fixture
def vendor(requests: list[bytes]) -> Iterator[str]:
    """A server that plays every vendor: its answer has the dialect of the path. Yields its URL without a path."""

    def answer(sock: Any) -> None:
        path = requests[-1].split(b" ")[1].split(b"?")[0].decode()
        body = json.dumps(next(found for ending, found in ANSWERS.items() if path.endswith(ending))).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        sock.sendall(head % len(body) + body)

    with scripted_server(answer, requests) as url:
        yield url.removesuffix("/v1")


def test_every_vendor_is_called() -> None:
    assert {file for file, *_ in CALLS} == {path.stem for path in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_all_its_models_have_prices(file: Path, tmp_path: Path) -> None:
    if {each["kind"] for each in yaml.safe_load(file.read_text())["providers"].values()} - set(KINDS):
        pytest.skip("a kind that is not there yet")
    env = {**environment(file.read_text()), "GATEWAY_CONFIG": str(file), "DATA_DIR": str(tmp_path)}
    checked = CliRunner().invoke(check_config, env=env)
    assert checked.exit_code == 0, checked.output
    assert checked.output.startswith("OK: "), checked.output
    assert "no API key" not in checked.output
    config, _ = load_config(file, env)
    pricing = Pricing(config=config, overrides=load_prices(EXAMPLES / "prices.yaml"))
    for alias, model in config.models.items():
        for target in model.targets:
            assert pricing.rate_card(target.provider, target.model or alias) is not None, alias


@pytest.mark.parametrize(
    ("file", "model", "host", "target", "headers"), CALLS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_call_has_the_path_query_and_headers_that_the_vendor_wants(
    file: str,
    model: str,
    host: str,
    target: str,
    headers: list[str],
    vendor: str,
    requests: list[bytes],
    client_with: Callable[[str], AppClient],
) -> None:
    text = VARIABLE.sub(r"key-of-\1", (EXAMPLES / f"{file}.yaml").read_text())
    config = yaml.safe_load(text)
    provider = config["models"][model]["targets"][0]
    name = provider["provider"] if isinstance(provider, dict) else provider
    asked = config["providers"][name]
    if asked["kind"] not in KINDS:
        pytest.skip("a kind that is not there yet")
    url = urlsplit(asked.get("base_url") or DEFAULT_URLS[asked["kind"]])
    assert url.netloc == host
    config["providers"] = {name: {**asked, "base_url": vendor + url.path}}
    config["models"] = {model: {**config["models"][model], "fallbacks": []}}
    answer = client_with(yaml.safe_dump(config)).chat(model)
    assert answer.status_code == 200, answer.text
    assert answer.json["choices"][0]["message"]["content"] == "Hello."
    head = requests[0].split(b"\r\n\r\n")[0].decode().split("\r\n")
    assert head[0] == f"POST {target} HTTP/1.1"
    sent = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head[1:]}
    assert {line.partition(": ")[0]: sent.get(line.partition(": ")[0]) for line in headers} == dict(
        line.split(": ", 1) for line in headers
    )
    if not headers:
        assert not {"authorization", "api-key", "x-api-key"} & sent.keys()
