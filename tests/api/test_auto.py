"""The model `auto`, /chat/smart and the optimiser, as callers and the ledger see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.api.conftest import AppClient
from tests.api.test_jobs import JobWorker, ask, job_of, submit
from tests.support.response import AppResponse
from tests.support.upstream import Upstream

PLAIN = """
providers: {demo: {kind: demo, script: {chunk_delay_s: 0}}}
models:
  small: {targets: [{provider: demo}]}
  coder: {targets: [{provider: demo}]}
  large: {targets: [{provider: demo}]}
  seer: {targets: [{provider: demo}]}
plans: {paid: {}}
"""
CONFIG = (
    PLAIN
    + """
smart:
  rules:
    - {name: pictures, has: [images], model: seer}
    - {name: paid-code, has: [code], plans: [paid], model: large}
    - {name: code, has: [code], model: coder}
    - {name: tools, has: [tools], model: coder}
    - {name: long, min_prompt_tokens: 500, model: large}
"""
)
CODE = [{"role": "user", "content": "```\nprint(1)\n```"}]
LONG = [{"role": "user", "content": "word " * 500}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture
def smart(client_with: Callable[[str], AppClient]) -> AppClient:
    return client_with(CONFIG)


def picked(answer: AppResponse) -> tuple[str, str | None]:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-penstock-model"], answer.headers.get("x-penstock-route-reason")


def error_of(answer: AppResponse) -> tuple[int, str, str | None]:
    """Status, code and param of an error in the shape that OpenAI's clients parse."""
    body = answer.json
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert body["code"] == body["error"]["code"]
    return answer.status_code, body["code"], body["error"]["param"]


def key(client: AppClient, plan: str = "default", models: list[str] | None = None) -> str:
    return client.services.keys.create("test", plan=plan, models=models)[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("plan", "question", "expected"),
    [
        ("default", {}, ("small", "default")),
        ("default", {"messages": CODE}, ("coder", "code")),
        ("paid", {"messages": CODE}, ("large", "paid-code")),
        ("paid", {"tools": TOOLS}, ("coder", "tools")),
        ("default", {"messages": LONG}, ("large", "long")),
        ("default", {"messages": [*CODE, *PICTURE]}, ("seer", "pictures")),
    ],
)
def test_auto_picks_by_the_task_and_the_callers_plan(
    smart: AppClient, plan: str, question: dict[str, Any], expected: tuple[str, str], stream: bool
) -> None:
    with capture_logs() as logs:
        answer = smart.chat("auto", key=key(smart, plan), stream=stream, **question)
    assert picked(answer) == expected
    [row] = smart.rows()
    model, reason = expected
    assert (row["model"], row["upstream_model"], row["tags"]) == (model, model, f"route={reason}")
    [event] = [line for line in logs if line["event"] == "llm_request_completed"]
    assert (event["model"], event["tags"]) == (model, f"route={reason}")


def test_a_call_that_names_its_model_is_not_concerned(smart: AppClient) -> None:
    with capture_logs() as logs:
        assert picked(smart.chat("small", messages=CODE)) == ("small", None)
    assert smart.rows()[0]["tags"] == ""
    assert all("tags" not in line for line in logs)


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1"])
@pytest.mark.parametrize("named", [{}, {"model": "auto"}])
def test_chat_smart_needs_no_model(smart: AppClient, prefix: str, named: dict[str, str]) -> None:
    def ask(messages: Any, **more: Any) -> AppResponse:
        return smart.post(json.dumps({**named, "messages": messages, **more}), path=f"{prefix}/chat/smart")

    assert picked(ask(CODE)) == ("coder", "code")
    streamed = ask(LONG, stream=True)
    assert picked(streamed) == ("large", "long")
    assert streamed.text.rstrip().endswith("[DONE]")
    assert [row["model"] for row in smart.rows()] == ["coder", "large"]


def test_a_model_that_is_named_at_chat_smart_is_the_callers_own_default(smart: AppClient) -> None:
    def ask(model: str, messages: Any, key: str | None = None) -> AppResponse:
        return smart.post(json.dumps({"model": model, "messages": messages}), path="/v1/chat/smart", key=key)

    hello = [{"role": "user", "content": "Hello"}]
    assert picked(ask("large", hello)) == ("large", "named")
    assert picked(ask("large", CODE)) == ("coder", "code")
    assert error_of(ask("nothing", CODE)) == (404, "MODEL_NOT_FOUND", "model")
    assert error_of(ask("large", CODE, key(smart, models=["coder"]))) == (403, "FORBIDDEN", "model")
    assert len(smart.rows()) == 2, "nothing is written for what was not admitted"


def test_a_file_with_providers_and_models_is_enough(client_with: Callable[[str], AppClient]) -> None:
    plain = client_with(PLAIN)
    assert picked(plain.chat("auto", messages=CODE)) == ("small", "default")
    assert picked(plain.post(json.dumps({"messages": CODE}), path="/v1/chat/smart")) == ("small", "default")


def test_a_model_of_ones_own_with_the_name_auto_wins(client_with: Callable[[str], AppClient]) -> None:
    own = client_with(CONFIG.replace("  seer:", "  auto: {targets: [{provider: demo, model: mine}]}\n  seer:"))
    assert picked(own.chat("auto", messages=CODE)) == ("auto", None)
    assert own.rows()[0]["upstream_model"] == "mine"
    assert picked(own.post(json.dumps({"messages": CODE}), path="/v1/chat/smart")) == ("coder", "code")
    assert listed(own, own.key) == ["small", "coder", "large", "auto", "seer"]


def test_a_rule_is_skipped_whose_model_the_key_may_not_use(smart: AppClient) -> None:
    narrow = key(smart, "paid", ["small", "coder"])
    assert picked(smart.chat("auto", key=narrow, messages=CODE)) == ("coder", "code")
    assert picked(smart.chat("auto", key=narrow, messages=LONG)) == ("small", "default")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/chat/smart"])
@pytest.mark.parametrize("stream", [False, True])
def test_when_no_model_is_left_for_the_key_the_call_is_forbidden(smart: AppClient, path: str, stream: bool) -> None:
    body = json.dumps({"model": "auto", "messages": LONG, "stream": stream})
    assert error_of(smart.post(body, path=path, key=key(smart, models=["removed"]))) == (403, "FORBIDDEN", "model")
    assert smart.rows() == []


def test_the_default_of_a_key_is_a_model_that_it_may_use(smart: AppClient) -> None:
    assert picked(smart.chat("auto", key=key(smart, models=["seer", "coder"]))) == ("coder", "default")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"messages"', (400, "INVALID_REQUEST", None)),
        ("[]", (400, "INVALID_REQUEST", None)),
        ("{}", (400, "INVALID_REQUEST", "messages")),
        ('{"messages": []}', (400, "INVALID_REQUEST", "messages")),
        ('{"model": 7, "messages": [{"role": "user"}]}', (400, "INVALID_REQUEST", "model")),
        ('{"model": "", "messages": [{"role": "user"}]}', (400, "INVALID_REQUEST", "model")),
        ('{"model": "a\\u0000", "messages": [{"role": "user"}]}', (400, "INVALID_REQUEST", "model")),
        ('{"messages": [{"role": "king"}]}', (400, "INVALID_REQUEST", "messages[0].role")),
    ],
)
def test_what_is_wrong_with_a_smart_call_is_said_as_everywhere(
    smart: AppClient, body: str, expected: tuple[int, str, str | None]
) -> None:
    assert error_of(smart.post(body, path="/v1/chat/smart")) == expected


def test_chat_smart_wants_a_key(smart: AppClient) -> None:
    assert error_of(smart.post("{}", path="/v1/chat/smart", key="wrong")) == (401, "INVALID_API_KEY", None)


def test_auto_is_no_model_for_embeddings(smart: AppClient) -> None:
    answer = smart.post(json.dumps({"model": "auto", "input": "x"}), path="/v1/embeddings")
    assert error_of(answer) == (404, "MODEL_NOT_FOUND", "model")


def listed(client: AppClient, key: str) -> list[str]:
    answer = client.get("/v1/models", key=key)
    assert answer.status_code == 200
    return [model["id"] for model in answer.json["data"]]


def test_auto_is_listed_for_the_keys_that_can_use_it(smart: AppClient) -> None:
    assert listed(smart, smart.key) == ["small", "coder", "large", "seer", "auto"]
    entry = smart.get("/v1/models/auto", key=smart.key).json
    assert entry == {
        "id": "auto",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "penstock",
        "name": "Auto",
        "description": "The gateway picks a model that suits the request.",
        "max_tokens": None,
        "context_window": None,
        "max_output_tokens": None,
        "prices": None,
        "capabilities": None,
        "available": True,
        "reason": None,
    }
    assert listed(smart, key(smart, models=["coder"])) == ["coder", "auto"]
    nothing = key(smart, models=["removed"])
    assert listed(smart, nothing) == []
    assert error_of(smart.get("/v1/models/auto", key=nothing)) == (404, "MODEL_NOT_FOUND", "model")


def test_a_cached_answer_is_shared_with_calls_that_name_the_model(smart: AppClient) -> None:
    def ask(model: str, messages: Any) -> str:
        answer = smart.chat(model, messages=messages, temperature=0)
        assert answer.status_code == 200
        return answer.headers["x-penstock-cache"]

    assert [ask("auto", CODE), ask("coder", CODE), ask("small", CODE), ask("auto", LONG)] == [
        "miss",
        "hit",
        "miss",
        "miss",
    ]
    assert picked(smart.chat("auto", messages=CODE, temperature=0)) == ("coder", "code"), "a hit says why, too"
    assert [row["tags"] for row in smart.rows()] == ["route=code", "", "", "route=long", "route=code"]


UP = """
providers: {up: {kind: openai, base_url: %s}}
models:
  ok: {targets: [{provider: up}]}
  echo: {targets: [{provider: up}]}
smart: {default: echo}
"""


def sent(answer: AppResponse) -> dict[str, Any]:
    """The body that the provider got: the played vendor says it again."""
    head_and_body: str = answer.json["choices"][0]["message"]["content"]
    found: dict[str, Any] = json.loads(head_and_body.partition("\n\n")[2])
    return found


def test_the_provider_reads_the_model_that_was_picked(
    client_with: Callable[[str], AppClient], upstream: Upstream
) -> None:
    """Also where alias and upstream name are one, and where the body speaks of "model" without naming one."""
    client = client_with(UP % upstream.url)
    messages = [{"role": "user", "content": "model"}]
    body = {"messages": messages, "odd": {"deep": [1.5, None]}, "seed": 7}
    assert sent(client.post(json.dumps({**body, "model": "auto"}))) == {**body, "model": "echo"}
    assert sent(client.post(json.dumps(body), path="/v1/chat/smart")) == {**body, "model": "echo"}
    assert [row["upstream_model"] for row in client.rows()] == ["echo", "echo"]


def test_the_callers_other_spellings_of_the_model_go_nowhere(
    client_with: Callable[[str], AppClient], upstream: Upstream
) -> None:
    client = client_with(UP % upstream.url)
    body = '{"model":"ok","model":"auto","messages":[{"role":"user","content":"x"}]}'
    assert sent(client.post(body)).get("model") == "echo"
    answer = client.post(body.replace('"model":"ok"', '"MODEL":"ok"'))
    assert (answer.status_code, answer.json["error"]["param"]) == (400, "MODEL")


def test_a_queued_calls_model_is_picked_when_it_is_submitted(smart: AppClient) -> None:
    headers = {"Idempotency-Key": "once"}
    jobs = [job_of(submit(smart, "```\nx\n```", model="auto", headers=headers)) for _ in range(2)]
    assert jobs[0] == jobs[1], "the same request, as its caller wrote it"
    with capture_logs() as logs:
        JobWorker(smart).run()
    done = ask(smart, jobs[0]).json
    assert (done["status"], done["model"], done["route"]) == ("completed", "coder", "code")
    [row] = smart.rows()
    assert (row["model"], row["tags"], row["job_id"]) == ("coder", "route=code", jobs[0])
    assert [line["tags"] for line in logs if line["event"] == "llm_request_completed"] == ["route=code"]

    refusal = submit(smart, "Hello", model="auto", key=key(smart, models=["removed"]))
    assert error_of(refusal) == (403, "FORBIDDEN", "model")


def test_a_queued_call_is_optimised_when_it_is_submitted(
    client_with: Callable[[str], AppClient], upstream: Upstream
) -> None:
    client = client_with(UP % upstream.url + OPTIMIZED)
    job_id = job_of(
        submit(client, model="auto", messages=[{"role": "system", "content": "x"}, *CODE, *CODE, *CODE, *CODE])
    )
    JobWorker(client).run()
    done = ask(client, job_id).json
    assert (done["optimized"], done["route"], client.rows()[0]["tags"]) == (
        "trimmed",
        "default",
        "route=default optimized=trimmed",
    )
    body = json.loads(done["response"]["choices"][0]["message"]["content"].partition("\n\n")[2])
    assert body == {"model": "echo", "messages": [{"role": "system", "content": "x"}, *CODE, *CODE, *CODE]}


OPTIMIZED = "optimizer: {enabled: true, keep_messages: 3, small_talk_max_tokens: 5}\n"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?", "name": "ann"},
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
    {"role": "tool", "tool_call_id": "c", "content": "rain"},
    {"role": "assistant", "content": "Rain."},
    {"role": "user", "content": "And tomorrow?", "odd": 1.5},
]


def test_the_optimiser_is_off_unless_asked_for(client_with: Callable[[str], AppClient], upstream: Upstream) -> None:
    answer = client_with(UP % upstream.url).chat("echo", messages=TALK * 20)
    assert sent(answer)["messages"] == TALK * 20
    assert "x-penstock-optimized" not in answer.headers


def test_a_long_conversation_is_trimmed_and_the_answer_says_so(
    client_with: Callable[[str], AppClient], upstream: Upstream
) -> None:
    client = client_with(UP % upstream.url + OPTIMIZED)
    answer = client.chat("echo", messages=TALK, odd={"kept": [1, 2.5]})
    assert sent(answer) == {"model": "echo", "messages": [TALK[0], TALK[-1]], "odd": {"kept": [1, 2.5]}}
    assert answer.headers["x-penstock-optimized"] == "trimmed"
    assert "x-penstock-route-reason" not in answer.headers
    assert client.rows()[0]["tags"] == "optimized=trimmed"

    untouched = client.chat("echo", messages=TALK[-1:])
    assert "x-penstock-optimized" not in untouched.headers
    assert client.rows()[1]["tags"] == ""


def test_small_talk_is_capped(client_with: Callable[[str], AppClient], upstream: Upstream) -> None:
    client = client_with(UP % upstream.url + OPTIMIZED)
    hello = [{"role": "user", "content": "Hello!"}]
    answer = client.chat("echo", messages=hello, max_tokens=4000)
    assert (sent(answer)["max_tokens"], answer.headers["x-penstock-optimized"]) == (5, "capped")
    assert sent(client.chat("echo", messages=hello, max_tokens=3))["max_tokens"] == 3


def test_what_was_trimmed_and_picked_is_told_together(client_with: Callable[[str], AppClient]) -> None:
    client = client_with(CONFIG + OPTIMIZED)
    thanks = {"role": "user", "content": "Thank you!"}
    for stream in (False, True):
        answer = client.chat("auto", messages=[*LONG, *CODE, *CODE, thanks], stream=stream)
        assert picked(answer) == ("coder", "code"), "by what is sent: the long message is gone"
        assert answer.headers["x-penstock-optimized"] == "trimmed,capped"
    assert [row["tags"] for row in client.rows()] == ["route=code optimized=trimmed,capped"] * 2
