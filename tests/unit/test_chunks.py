"""An answer says the same whole and streamed; what a vendor sends badly is not kept, and breaks nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.usage import Usage
from app.gateway.chunks import from_completion, to_completion

USAGE = Usage(10, 5, cached_tokens=4, reasoning_tokens=2)


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices)}
    return b"data: " + json.dumps({**base, **more}).encode() + b"\n\n"


def piece(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, **more}


def whole(*blocks: bytes) -> Any:
    kept = to_completion(blocks, USAGE)
    return None if kept is None else json.loads(kept)


def events(completion: Any, *, include_usage: bool = False) -> list[Any]:
    blocks = from_completion(json.dumps(completion).encode(), include_usage=include_usage)
    assert all(block.startswith(b"data: ") and block.endswith(b"\n\n") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def test_a_streams_pieces_become_one_message_with_the_usage_of_the_ledger() -> None:
    answer = whole(
        chunk(piece({"role": "assistant", "content": ""})),
        chunk(piece({"content": "Hel"})) + b": a comment\n\n",
        chunk(piece({"content": "lo"})),
        chunk(piece({}, "stop")),
        chunk(usage={"prompt_tokens": 1}),
    )
    assert answer["object"] == "chat.completion"
    assert (answer["id"], answer["model"]) == ("c1", "m")
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ]
    assert answer["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_tool_calls_are_put_together_by_index() -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return piece({"tool_calls": [{"index": index, **fields}]})

    answer = whole(
        chunk(call(0, id="a", type="function", function={"name": "weather", "arguments": ""})),
        chunk(call(1, id="b", type="function", function={"name": "time", "arguments": "{}"})),
        chunk(call(0, function={"arguments": '{"city":'})),
        chunk(call(0, function={"arguments": '"Ulm"}'})),
        chunk(piece({}, "tool_calls")),
    )
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("a", "weather", '{"city":"Ulm"}'),
        ("b", "time", "{}"),
    ]


def test_several_choices_logprobs_and_line_ends_of_another_kind() -> None:
    logprobs = {"content": [{"token": "x"}], "refusal": None}
    answer = whole(
        chunk(piece({"content": "B"}, index=1), piece({"content": "A"}, logprobs=logprobs)).replace(
            b"\n\n", b"\r\n\r\n"
        ),
        chunk(piece({"content": "a"}, "stop", logprobs=logprobs), piece({}, "length", index=1)),
    )
    first, second = answer["choices"]
    assert (first["message"]["content"], first["finish_reason"]) == ("Aa", "stop")
    assert (second["message"]["content"], second["finish_reason"]) == ("B", "length")
    assert first["logprobs"]["content"] == [{"token": "x"}, {"token": "x"}]


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [chunk(piece({"content": "never finished"}))],
        [chunk(piece({"content": "one finished"}, "stop"), piece({"content": "one not"}, index=1))],
        [b"data: {not json\n\n"],
        [b"data: [1, 2]\n\n"],
        [b"data: \xff\n\n"],
        [chunk(piece({"tool_calls": [{"index": 4000, "id": "x"}]}, "stop"))],
        [chunk(piece({"tool_calls": [{"index": -5, "id": "x"}]}, "stop"))],
        [chunk(piece({"tool_calls": "none"}, "stop"))],
        [chunk(piece({"tool_calls": [{"index": 0, "function": {"arguments": {"not": "text"}}}]}, "stop"))],
        [chunk(piece({"content": "x"}, "stop", logprobs={"content": "text"}), piece({}, logprobs={"content": [1]}))],
        [chunk(piece({"content": "x"}, "stop"), piece({}, "stop", index="one"))],  # type: ignore[arg-type]
        [
            chunk(piece({"function_call": {"arguments": "{"}})),
            chunk(piece({"function_call": {"arguments": "}"}}, "stop")),
        ],
        [chunk("text")],  # type: ignore[arg-type]
        [chunk({"index": {}, "delta": {}, "finish_reason": "stop"})],
    ],
)
def test_what_makes_no_whole_answer_is_not_kept_and_raises_nothing(blocks: list[bytes]) -> None:
    assert whole(*blocks) is None


def test_a_replayed_answer_is_marked_and_ends_as_a_stream_does() -> None:
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    completion = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "usage": {"total_tokens": 3},
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
    }
    head, tail = events(completion)
    assert head["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": None}]
    assert tail["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert {(event["object"], event["cached"], event["id"]) for event in (head, tail)} == {
        ("chat.completion.chunk", True, "c1")
    }
    assert "usage" not in head
    *_, last = events(completion, include_usage=True)
    assert (last["choices"], last["usage"]) == ([], {"total_tokens": 3})


def test_an_answer_with_less_in_it_than_it_should_have_is_replayed_anyway() -> None:
    head, tail = events({"choices": [{"message": {"content": "Hi"}}]})
    assert head["choices"][0]["delta"] == {"content": "Hi"}
    assert tail["choices"][0]["finish_reason"] == "stop"
    assert events({"choices": [{"finish_reason": "length"}]})[-1]["choices"][0]["finish_reason"] == "length"


texts = st.text(max_size=20)
tool_calls = st.lists(
    st.builds(
        lambda id_, name, arguments: {
            "id": id_,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        },
        texts.filter(bool),
        texts,
        texts,
    ),
    min_size=1,
    max_size=3,
)
messages = st.one_of(
    st.builds(lambda text: {"role": "assistant", "content": text}, texts),
    st.builds(lambda calls: {"role": "assistant", "content": None, "tool_calls": calls}, tool_calls),
)


@given(st.lists(messages, min_size=1, max_size=3))
def test_streamed_and_put_together_again_it_is_the_same_answer(said: list[Any]) -> None:
    choices = [{"index": i, "message": message, "finish_reason": "stop"} for i, message in enumerate(said)]
    completion = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    again = whole(*from_completion(json.dumps(completion).encode(), include_usage=False))
    assert again["choices"] == choices
