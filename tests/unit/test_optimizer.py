"""The optimiser removes whole old turns, and never leaves a result without its call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config.features import OptimizerConfig
from app.domain.chat import ChatRequest, Draft
from app.gateway.optimizer import Optimizer

Messages = list[dict[str, Any]]
SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str = "question") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None = "answer", *calls: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        function = {"name": "f", "arguments": "{}"}
        message["tool_calls"] = [{"id": name, "type": "function", "function": function} for name in calls]
    return message


def result(call: str | None, role: str = "tool") -> dict[str, Any]:
    message = {"role": role, "content": "7"}
    return message if call is None else {**message, "tool_call_id": call}


def optimized(messages: Messages, *, more: dict[str, Any] | None = None, **config: Any) -> tuple[str, dict[str, Any]]:
    """Returns the optimisation and the body that goes out; the parsed request must say the same as the body."""
    request = ChatRequest.parse(json.dumps({"model": "m", "messages": messages, **(more or {})}).encode())
    draft = Draft(request)
    done = Optimizer(OptimizerConfig(enabled=True, **config)).optimize(draft)
    assert draft.request == ChatRequest.parse(draft.request.raw)
    if not done:
        assert draft.request is request, "nothing is rewritten for nothing"
    return done, json.loads(draft.request.raw)


def trimmed(messages: Messages, **config: Any) -> Messages:
    found: Messages = optimized(messages, small_talk_max_tokens=None, **config)[1]["messages"]
    return found


TURNS = [part for i in range(5) for part in (user(f"q{i}"), assistant(f"a{i}"))]
CALLS = [user("a"), assistant(None, "x", "y"), result("x"), result("y"), assistant("b"), user("c")]


@pytest.mark.parametrize(
    ("messages", "keep", "first"),
    [
        (TURNS, 10, 0),
        (TURNS, 9, 2),
        (TURNS, 8, 2),
        (TURNS, 3, 8),
        (TURNS, 1, 8),
        ([*TURNS, user("last")], 1, 10),
        (CALLS, 5, 5),
        (CALLS, 6, 0),
        (CALLS[:5], 2, 0),
        ([user("old"), *CALLS[:4]], 2, 1),
        ([assistant("Welcome!"), user()], 1, 1),
        ([assistant("only"), assistant("machines")], 1, 0),
    ],
)
def test_whole_turns_go_from_the_oldest_on(messages: Messages, keep: int, first: int) -> None:
    assert trimmed(messages, keep_messages=keep) == messages[first:]


def test_system_and_developer_messages_stay_in_place_and_do_not_count() -> None:
    developer = {"role": "developer", "content": [{"type": "text", "text": "No lists."}]}
    messages = [SYSTEM, *TURNS[:2], developer, *TURNS[2:]]
    assert trimmed(messages, keep_messages=2) == [SYSTEM, developer, *TURNS[8:]]
    assert trimmed(messages, keep_messages=10) == messages


def test_a_budget_of_tokens_counts_what_is_always_kept() -> None:
    messages = [SYSTEM, *(user(str(i) * 400) for i in range(8))]
    assert trimmed(messages, keep_messages=None, keep_tokens=460) == [SYSTEM, *messages[-4:]]
    assert (
        trimmed([{**SYSTEM, "content": "x" * 400}, *messages[1:]], keep_messages=None, keep_tokens=460)[1:]
        == messages[-3:]
    )
    assert trimmed(messages, keep_messages=2, keep_tokens=460) == [SYSTEM, *messages[-2:]], "the tighter one decides"
    assert trimmed(messages, keep_messages=None, keep_tokens=1) == [SYSTEM, messages[-1]], "the last turn always stays"


def test_a_picture_weighs_what_it_costs_not_what_it_measures() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    messages = [user("old"), {"role": "user", "content": [picture]}, user("new")]
    assert trimmed(messages, keep_messages=None, keep_tokens=1500) == messages


@pytest.mark.parametrize(
    "late",
    [
        result("x"),  # asked for before the last user's message
        result(None, role="function"),
    ],
)
def test_a_result_that_comes_late_keeps_its_call(late: dict[str, Any]) -> None:
    messages = [
        user("old"),
        user("a"),
        assistant(None, "x"),
        user("hurry") if "tool_call_id" in late else late,
        late,
    ]
    assert trimmed(messages, keep_messages=1)[0] == user("a")


def test_call_ids_that_are_used_again_belong_to_the_latest_call() -> None:
    turn = [user(), assistant(None, "call_0"), result("call_0")]
    assert trimmed(turn * 4, keep_messages=3) == turn


@pytest.mark.parametrize(
    "odd",
    [
        [result("x"), user(), assistant()],  # answers nothing that is there
        [user(), {**assistant(), "tool_calls": "none"}, {**result("x"), "tool_call_id": 7}, user()],
        [user(), {**assistant(), "tool_calls": [7, {"id": []}]}, result(None), user()],
    ],
)
def test_what_no_provider_would_take_is_left_to_the_provider(odd: Messages) -> None:
    _, body = optimized(odd, keep_messages=1)
    assert body["messages"][-1] == odd[-1]
    assert body["messages"][0]["role"] != "tool" or body["messages"] == odd


def test_everything_else_of_the_body_keeps_its_bytes() -> None:
    raw = (
        b'{"x":{"b":1.50,"a":[]}, "messages":[{"role":"user","content":"a"},'
        b'{"role":"user","content":"\xc3\xbc","name":"n","odd":1e2}],"model":"m","s":1e2}'
    )
    draft = Draft(ChatRequest.parse(raw))
    Optimizer(OptimizerConfig(keep_messages=1)).optimize(draft)
    assert draft.request.raw == (
        b'{"x":{"b":1.50,"a":[]},"messages":[{"role":"user","content":"\xc3\xbc","name":"n","odd":1e2}],'
        b'"model":"m","s":1e2}'
    )


@st.composite
def conversations(draw: st.DrawFn) -> Messages:
    """Turns as clients send them, with calls in parallel, calls in a row, system messages anywhere and reused ids."""
    messages: Messages = []
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            messages.append({"role": draw(st.sampled_from(["system", "developer"])), "content": "s"})
        messages.append(user("q" * draw(st.integers(0, 200))))
        for _ in range(draw(st.integers(0, 3))):
            calls = draw(st.lists(st.sampled_from(["c0", "c1", "c2", "c3"]), unique=True, max_size=3))
            messages.append(assistant("a" * draw(st.integers(0, 200)), *calls))
            messages += [result(name) for name in draw(st.permutations(calls))]
    for i, message in enumerate(messages):
        message["n"] = i
    return messages


def by_its_call(messages: Messages) -> dict[int, int]:
    """Each result's number, and the number of the message that made its call."""
    found: dict[int, int] = {}
    asked: dict[str, int] = {}
    for message in messages:
        asked |= {call["id"]: message["n"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool":
            found[message["n"]] = asked[message["tool_call_id"]]
    return found


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(conversations(), st.integers(1, 12) | st.none(), st.integers(1, 400) | st.none())
def test_whatever_is_trimmed_what_is_left_is_a_conversation(
    messages: Messages, keep: int | None, tokens: int | None
) -> None:
    done, body = optimized(messages, keep_messages=keep, keep_tokens=tokens, small_talk_max_tokens=None)
    left = body["messages"]
    numbers = {message["n"] for message in left}
    always = {message["n"] for message in messages if message["role"] in ("system", "developer")}
    remaining = [message for message in left if message["n"] not in always]

    assert (done == "trimmed") == (len(left) < len(messages))
    assert left == [message for message in messages if message["n"] in numbers], "unchanged, and in their order"
    assert always <= numbers
    assert [m for m in messages if m["role"] == "user"][-1]["n"] in numbers
    assert remaining[0]["role"] == "user"
    assert all((answer in numbers) == (call in numbers) for answer, call in by_its_call(messages).items())
    turns = sum(message["role"] == "user" for message in remaining)
    assert turns == 1 or keep is None or len(remaining) <= keep


@pytest.mark.parametrize(
    "text", ["Hello", "hi there!", "Good morning :)", "Thanks a lot!", "hey, what's up?", "Danke!", "Привет", "bye 👋"]
)
def test_small_talk_gets_a_short_answer(text: str) -> None:
    assert optimized([SYSTEM, user(text)]) == (
        "capped",
        {"model": "m", "messages": [SYSTEM, user(text)], "max_tokens": 256},
    )


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([user("Hi, write me an essay about penstocks")], {}),
        ([user("hello world in C")], {}),
        ([user("ok")], {}),
        ([assistant("Shall I write it?"), user("yes, good")], {}),
        ([user("hi 5+5")], {}),
        ([user("")], {}),
        ([user("👋")], {}),
        ([user("thanks " * 9)], {}),
        ([user("hello" + "!" * 80)], {}),
        ([user("Hello"), assistant("Hi")], {}),
        ([SYSTEM], {}),
        ([user("Hello")], {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ([user("Hello")], {"response_format": {"type": "json_object"}}),
        ([user("Hello")], {"max_tokens": 256}),
        ([user("Hello")], {"max_completion_tokens": 9}),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Hi"},
                        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                    ],
                }
            ],
            {},
        ),
    ],
)
def test_nothing_else_is_capped(messages: Messages, more: dict[str, Any]) -> None:
    assert optimized(messages, more=more)[0] == ""


@pytest.mark.parametrize(
    ("given", "config", "expected"),
    [
        ({"max_tokens": 4000}, {}, {"max_tokens": 256}),
        ({"max_completion_tokens": 4000}, {}, {"max_completion_tokens": 256}),
        ({"max_completion_tokens": 4000, "max_tokens": 9}, {}, {"max_completion_tokens": 256, "max_tokens": 9}),
        ({}, {"small_talk_field": "max_completion_tokens"}, {"max_completion_tokens": 256}),
        ({"max_tokens": None}, {"small_talk_max_tokens": 40}, {"max_tokens": 40}),
    ],
)
def test_the_cap_goes_where_the_caller_put_its_own(
    given: dict[str, Any], config: dict[str, Any], expected: dict[str, Any]
) -> None:
    done, body = optimized([user("Hello")], more=given, **config)
    assert (done, {name: body[name] for name in expected}) == ("capped", expected)
    assert body.keys() == {"model", "messages", *expected}


def test_both_can_happen_to_one_call() -> None:
    assert optimized([*TURNS, user("Thank you!")], keep_messages=2) == (
        "trimmed,capped",
        {"model": "m", "messages": [user("Thank you!")], "max_tokens": 256},
    )
