"""The built-in model: deterministic, to the token, and as faulty as its script says."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from msgspec.structs import replace

from app.config.providers import ProviderConfig, Timeouts
from app.domain.usage import Usage
from app.errors import ConfigError, InvalidRequest, UpstreamError, UpstreamRejected, UpstreamTimeout
from app.providers.demo import DemoProvider
from tests.support.providers import chat_call, demo, embed_call, payloads, text_of


def choices_of(provider: DemoProvider, **fields: Any) -> list[Any]:
    choices: list[Any] = json.loads(provider.chat(chat_call("m", **fields)).body)["choices"]
    return choices


def answer_text(provider: DemoProvider, **fields: Any) -> str:
    text: str = choices_of(provider, **fields)[0]["message"]["content"]
    return text


def test_it_echoes_the_last_message_and_tells_once_how_to_get_real_answers() -> None:
    echo = "This is Penstock's offline demo model. You said: Grüß Gott"
    hint = "For real answers, set a vendor's key, such as OPENAI_API_KEY."
    assert answer_text(demo(), prompt="Grüß Gott") == f"{echo}\n\n{hint}"
    roles = ["user", "assistant", "user"]
    later = json.dumps({"model": "m", "messages": [{"role": role, "content": "Grüß Gott"} for role in roles]}).encode()
    choice = json.loads(demo().chat(chat_call(raw=later)).body)["choices"][0]
    assert choice["message"]["content"] == echo


def test_its_echo_of_a_long_message_is_short() -> None:
    choices = choices_of(demo(), prompt="word " * 100_000, n=128)
    assert {len(choice["message"]["content"]) for choice in choices} < set(range(1_200))


def test_it_reads_text_parts() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    assert "You said: one " in answer_text(demo(), prompt=parts)


def test_a_script_says_it_all() -> None:
    provider = demo(reply="scripted words", prompt_tokens=1000, completion_tokens=0)
    assert answer_text(provider) == "scripted words"
    assert provider.chat(chat_call()).usage == Usage(1000, 0)


def test_a_token_is_a_word() -> None:
    assert demo(reply="a b c").chat(chat_call(prompt="one two")).usage == Usage(2, 3)


def test_each_choice_is_counted() -> None:
    provider = demo(reply="a b c")
    assert [choice["index"] for choice in choices_of(provider, n=2)] == [0, 1]
    assert provider.chat(chat_call(n=2)).usage == Usage(1, 6)
    stream = provider.stream(chat_call(n=2, stream=True))
    chunks = payloads(list(stream))
    assert stream.usage == Usage(1, 6)
    assert (stream.chunks, stream.text_bytes) == (6, 10)
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 1, 0, 1, 0, 1, 0, 1], "no choice waits for another"
    finished = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert [(choice["index"], choice["finish_reason"]) for choice in finished] == [(0, "stop"), (1, "stop")]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("most", "words", "reason"), [(1, "a", "length"), (2, "a b", "length"), (3, "a b c", "stop"), (4, "a b c", "stop")]
)
def test_it_stops_at_the_callers_bound(field: str, most: int, words: str, reason: str) -> None:
    provider = demo(reply="a b c")
    bound: dict[str, Any] = {field: most}
    choice = choices_of(provider, **bound)[0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (words, reason)
    stream = provider.stream(chat_call("m", stream=True, **bound))
    blocks = list(stream)
    assert text_of(blocks) == words
    assert payloads(blocks)[-1]["choices"][0]["finish_reason"] == reason
    assert stream.usage == Usage(1, min(most, 3))


def test_it_keeps_to_the_bound_that_the_callers_money_sets() -> None:
    call = replace(chat_call(max_tokens=3), max_output_tokens=1)
    assert demo(reply="a b c").chat(call).usage == Usage(1, 1)


@pytest.mark.parametrize(
    ("stop", "words"), [("b", "a "), (["x", " c"], "a b"), ([], "a b c"), ("", "a b c"), (None, "a b c")]
)
def test_it_stops_before_a_stop_sequence(stop: Any, words: str) -> None:
    choice = choices_of(demo(reply="a b c"), stop=stop)[0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (words, "stop")
    assert text_of(list(demo(reply="a b c").stream(chat_call(stream=True, stop=stop)))) == words


@pytest.mark.parametrize("stop", [5, [5], {"a": 1}, ["x"] * 17, "x" * 1001])
def test_a_stop_sequence_of_no_shape_is_refused(stop: Any) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        demo().chat(chat_call(stop=stop))
    assert caught.value.param == "stop"


def test_a_stream_says_the_same_as_a_whole_answer() -> None:
    provider = demo()
    assert text_of(list(provider.stream(chat_call(prompt="Grüß  Gott", stream=True)))) == answer_text(
        provider, prompt="Grüß  Gott"
    )


def test_only_a_stream_that_shows_usage_has_the_field() -> None:
    provider = demo()
    assert all("usage" not in chunk for chunk in payloads(list(provider.stream(chat_call(stream=True)))))
    shown = payloads(list(provider.stream(chat_call(stream=True, stream_options={"include_usage": True}))))
    assert [chunk["usage"] is None for chunk in shown] == [True] * (len(shown) - 1) + [False]


@pytest.mark.parametrize(
    ("choice", "called"),
    [("required", "f"), ({"type": "function", "function": {"name": "g"}}, "g"), ("auto", None), ("none", None)],
)
def test_it_calls_the_tool_that_it_is_made_to_call(choice: Any, called: str | None) -> None:
    fields = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": choice}
    message = choices_of(demo(), **fields)[0]["message"]
    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == ([called] if called else [])
    chunks = payloads(list(demo().stream(chat_call(stream=True, **fields))))
    streamed = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [call["function"]["name"] for call in streamed if "id" in call] == ([called] if called else [])
    assert "".join(call["function"]["arguments"] for call in streamed) == ("{}" if called else "")


@pytest.mark.parametrize("tool", [None, 5, {}, {"function": None}, {"function": "f"}, {"function": {"name": None}}])
def test_tools_of_no_shape_do_not_break_it(tool: Any) -> None:
    assert choices_of(demo(), tools=[tool], tool_choice="required")
    assert choices_of(demo(), tools="x", tool_choice=tool)


# Faults


def test_the_first_calls_fail_when_scripted() -> None:
    provider = demo(fail_status=500, fail_times=2)
    for _ in range(2):
        with pytest.raises(UpstreamError):
            provider.chat(chat_call())
    assert provider.chat(chat_call()).usage is not None
    assert provider.stats() == {"failures": 2}


def test_every_call_fails_when_scripted_without_end() -> None:
    provider = demo(fail_status=503)
    for ask in (provider.chat, provider.stream, provider.chat):
        with pytest.raises(UpstreamError):
            ask(chat_call())
    with pytest.raises(UpstreamError):
        provider.embed(embed_call())


def test_a_cut_stream_has_said_what_it_said() -> None:
    stream = demo(reply="a b c d", cut_after_chunks=3).stream(chat_call(stream=True))
    blocks: list[bytes] = []
    with pytest.raises(UpstreamError, match="broke off"):
        blocks.extend(stream)
    assert text_of(blocks) == "a b c"
    assert (stream.chunks, stream.text_bytes, stream.usage, stream.complete) == (3, 5, None, False)


def test_a_cut_behind_the_last_word_is_a_cut() -> None:
    stream = demo(reply="a b", cut_after_chunks=2).stream(chat_call(stream=True))
    with pytest.raises(UpstreamError):
        list(stream)
    assert not stream.complete


def test_silence_between_chunks_has_heartbeats() -> None:
    stream = demo(reply="a b", chunk_delay_s=0.1, heartbeat_s=0.04).stream(chat_call(stream=True))
    blocks = list(stream)
    assert blocks.count(b"") == 2
    assert text_of(blocks) == "a b"


def test_bug_11_silence_between_chunks_has_an_end() -> None:
    stream = demo(chunk_delay_s=5, heartbeat_s=0.04, timeouts=Timeouts(idle_s=0.1)).stream(chat_call(stream=True))
    with pytest.raises(UpstreamTimeout) as caught:
        list(stream)
    assert caught.value.kind == "timeout_idle"
    assert stream.chunks == 1


def test_bug_11_the_whole_call_has_an_end() -> None:
    stream = demo(chunk_delay_s=5, heartbeat_s=0.04).stream(chat_call(stream=True, total_s=0.1))
    with pytest.raises(UpstreamTimeout) as caught:
        list(stream)
    assert caught.value.kind == "timeout_total"


def test_it_has_no_address() -> None:
    config = ProviderConfig(kind="demo", base_url="http://127.0.0.1/v1")
    with pytest.raises(ConfigError, match=r"^base_url: "):
        DemoProvider(name="d", config=config, timeouts=Timeouts(), heartbeat_s=1, secrets=frozenset())


def test_numbers_that_no_machine_has_are_the_callers_mistake() -> None:
    """Whatever JSON allows may be in a field that nobody but the model reads."""
    for fields in ('"tools":[1e999]', f'"response_format":{"9" * 5000}', '"stop":[1e999]'):
        raw = f'{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],{fields}}}'.encode()
        with pytest.raises(UpstreamRejected) as caught:
            demo().chat(chat_call(raw=raw))
        assert f'"{caught.value.param}"' in fields
    unread = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"seed":1e999}'
    assert demo().chat(chat_call(raw=unread)).usage is not None


# Embeddings


def vectors(**fields: Any) -> list[Any]:
    return [item["embedding"] for item in json.loads(demo().embed(embed_call(**fields)).body)["data"]]


def test_the_same_text_is_the_same_unit_vector_everywhere() -> None:
    first, second, third = vectors(input=["a", "b", "a"])
    assert first == third == vectors(input="a")[0]
    assert first != second
    assert len(first) == 64
    assert math.isclose(sum(x * x for x in first), 1, rel_tol=1e-6)
    assert first[:2] == pytest.approx([-0.0468363, 0.2352894], abs=1e-6)


@pytest.mark.parametrize("size", [1, 64, 3072])
def test_base64_holds_the_same_floats(size: int) -> None:
    raw = base64.b64decode(vectors(input="a", encoding_format="base64", dimensions=size)[0])
    assert list(struct.unpack(f"<{size}f", raw)) == pytest.approx(vectors(input="a", dimensions=size)[0], abs=1e-6)


@pytest.mark.parametrize("size", [-1, 0, 3073, "8", 8.5, True, 10**40])
def test_dimensions_have_bounds(size: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        vectors(dimensions=size)
    assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [("one two", 1, 2), (["one two", "three"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_texts_and_tokens_are_counted(given: Any, count: int, tokens: int) -> None:
    answer = demo().embed(embed_call(input=given))
    assert len(json.loads(answer.body)["data"]) == count
    assert answer.usage == Usage(tokens)
