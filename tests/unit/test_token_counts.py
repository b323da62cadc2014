"""Token counts made offline: never below what the vendors count, nor so far above that they were of no use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.content import (
    Audio,
    Document,
    Image,
    Message,
    Opaque,
    Prompt,
    Source,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from app.gateway.token_counts import family_of, least_tokens, most_tokens
from app.gateway.tokenizer import count_tokens, slices

MODELS = ["gpt-4o", "gpt-4", "gpt-4o-mini", "claude-opus-4-5", "claude-opus-4-7", "gemini-2.5-pro", "llama-3.3-70b"]

# The tokens of short texts, by the tokenizers of the vendors that publish theirs (DeepSeek; Mistral, new and old) and a
# reconstruction of Claude's, whose counts are of a whole message.
COUNTED: dict[str, tuple[str, dict[str, int]]] = {
    "english": (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
        {
            "deepseek-chat": 29,
            "mistral-small-latest": 29,
            "open-mistral-7b": 29,
            "claude-opus-4-5": 37,
            "claude-opus-4-7": 46,
        },
    ),
    "german": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
        {
            "deepseek-chat": 27,
            "mistral-small-latest": 25,
            "open-mistral-7b": 31,
            "claude-opus-4-5": 41,
            "claude-opus-4-7": 61,
        },
    ),
    "russian": (
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
        {
            "deepseek-chat": 29,
            "mistral-small-latest": 29,
            "open-mistral-7b": 41,
            "claude-opus-4-5": 45,
            "claude-opus-4-7": 49,
        },
    ),
    "chinese": (
        "人工智能是研究使计算机来模拟人的某些思维过程和智能行为的学科。",
        {
            "deepseek-chat": 15,
            "mistral-small-latest": 28,
            "open-mistral-7b": 32,
            "claude-opus-4-5": 40,
            "claude-opus-4-7": 44,
        },
    ),
    "japanese": (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
        {
            "deepseek-chat": 27,
            "mistral-small-latest": 28,
            "open-mistral-7b": 40,
            "claude-opus-4-5": 45,
            "claude-opus-4-7": 49,
        },
    ),
    "hindi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        {
            "deepseek-chat": 43,
            "mistral-small-latest": 30,
            "open-mistral-7b": 94,
            "claude-opus-4-5": 62,
            "claude-opus-4-7": 66,
        },
    ),
    "arabic": (
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
        {
            "deepseek-chat": 19,
            "mistral-small-latest": 16,
            "open-mistral-7b": 45,
            "claude-opus-4-5": 37,
            "claude-opus-4-7": 41,
        },
    ),
    "emoji": (
        "😀🎉🚀❤️👩‍👩‍👧‍👦 great 🎂",
        {
            "deepseek-chat": 23,
            "mistral-small-latest": 41,
            "open-mistral-7b": 31,
            "claude-opus-4-5": 39,
            "claude-opus-4-7": 43,
        },
    ),
    "python": (
        "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
        {
            "deepseek-chat": 30,
            "mistral-small-latest": 30,
            "open-mistral-7b": 36,
            "claude-opus-4-5": 45,
            "claude-opus-4-7": 49,
        },
    ),
    "json": (
        '{"id": "7b6f0c1e-1d4e-4f51-9a53-0a8b1d2c3e4f", "ok": true, "values": [12345, 678901, 0.25], "name": null}',
        {
            "deepseek-chat": 65,
            "mistral-small-latest": 75,
            "open-mistral-7b": 75,
            "claude-opus-4-5": 72,
            "claude-opus-4-7": 78,
        },
    ),
    "digits": (
        "3141592653 5897932384 6264338327 9502884197",
        {
            "deepseek-chat": 19,
            "mistral-small-latest": 43,
            "open-mistral-7b": 44,
            "claude-opus-4-5": 27,
            "claude-opus-4-7": 31,
        },
    ),
    "log": (
        "2026-11-22T00:14:05.123Z INFO worker-3 request_completed status=200 duration_ms=12.75",
        {
            "deepseek-chat": 31,
            "mistral-small-latest": 44,
            "open-mistral-7b": 47,
            "claude-opus-4-5": 42,
            "claude-opus-4-7": 53,
        },
    ),
    "capitals": (
        "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND IS SHOUTED AT.",
        {
            "deepseek-chat": 23,
            "mistral-small-latest": 24,
            "open-mistral-7b": 28,
            "claude-opus-4-5": 31,
            "claude-opus-4-7": 54,
        },
    ),
    "base64": (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        {
            "deepseek-chat": 34,
            "mistral-small-latest": 39,
            "open-mistral-7b": 41,
            "claude-opus-4-5": 48,
            "claude-opus-4-7": 66,
        },
    ),
    "spaces": (
        "a" + " " * 200 + "b\n\n\n\n\n\nc",
        {
            "deepseek-chat": 7,
            "mistral-small-latest": 8,
            "open-mistral-7b": 22,
            "claude-opus-4-5": 24,
            "claude-opus-4-7": 28,
        },
    ),
    "letters": (
        "a" * 100,
        {
            "deepseek-chat": 13,
            "mistral-small-latest": 50,
            "open-mistral-7b": 15,
            "claude-opus-4-5": 42,
            "claude-opus-4-7": 111,
        },
    ),
}


def said(*texts: str, **more: Any) -> Prompt:
    """A conversation of these turns."""
    messages = tuple(Message(role="user", blocks=(Text(text=text),)) for text in texts)
    return Prompt(model="m", messages=messages, **more)


@pytest.mark.parametrize("text", COUNTED)
def test_no_vendor_counts_more_tokens_than_we_do(text: str) -> None:
    prompt = said(COUNTED[text][0])
    for model, tokens in COUNTED[text][1].items():
        assert least_tokens(prompt, [model]) <= tokens <= most_tokens(prompt, model), model


def test_an_estimate_of_prose_and_code_is_at_most_2_5_times_the_count() -> None:
    for name in ("english", "german", "python"):
        text, counts = COUNTED[name]
        for model, tokens in counts.items():
            assert most_tokens(said(text * 20), model) <= 2.5 * 20 * tokens, (name, model)


# From OpenAI's cookbook, "How to count tokens with tiktoken".
_JARGON = [
    "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    "New synergies will help drive top-line growth.",
    "Things working well together will increase revenue.",
    "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    "Let's talk later when we're less busy about how to do better.",
    "This late pivot means we don't have time to boil the ocean for the client deliverable.",
]
_WEATHER = Tool(
    name="get_weather",
    description="Get the current weather in a given location",
    schema={
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
        "required": ["location"],
    },
)


@pytest.mark.parametrize(
    ("model", "prompt", "tokens", "at_most"),
    [
        ("gpt-4o", said(*_JARGON), 124, 170),
        ("gpt-4", said(*_JARGON), 129, 170),
        ("claude-opus-5", said("You are a scientist", "Hello, Claude"), 14, 60),
        ("claude-sonnet-4-5", said("What's the weather like in San Francisco?", tools=(_WEATHER,)), 403, 1000),
        ("gemini-2.0-flash", said("The quick brown fox jumps over the lazy dog."), 11, 40),
    ],
)
def test_the_vendors_own_examples_are_covered(model: str, prompt: Prompt, tokens: int, at_most: int) -> None:
    assert tokens <= most_tokens(prompt, model) <= at_most


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(), max_size=4), st.sampled_from(MODELS))
def test_a_count_is_never_below_that_of_the_text(texts: list[str], model: str) -> None:
    prompt = said(*texts)
    counted = count_tokens("".join(texts), family_of(model).vocabulary)
    most = most_tokens(prompt, model)
    assert counted <= most
    assert least_tokens(prompt, [model]) <= most
    # Nor is it above what no byte-level tokenizer exceeds, but for what stands around the messages.
    assert most <= sum(len(text.encode()) for text in texts) + 8 * (len(texts) + 2)


@pytest.mark.parametrize(
    ("name", "factor", "image"),
    [
        ("gpt-4o-mini-2024-07-18", 1.02, 50_000),
        ("gpt-4-turbo", 1.02, 4_096),
        ("gpt-4.1-nano", 1.02, 4_096),
        ("openai/o3", 1.02, 4_096),
        ("gpt-6-sol", 1.3, 4_096),
        ("anthropic/claude-sonnet-4.5", 1.5, 1_700),
        ("us.anthropic.claude-opus-4-20250514-v1:0", 1.5, 1_700),
        ("claude-3-5-haiku-latest", 1.5, 1_700),
        ("claude-4-opus", 1.5, 1_700),
        ("anthropic/claude-opus-4.7", 2.1, 5_000),
        ("claude-opus-4-8-20260401", 2.1, 5_000),
        ("claude-haiku-5-5", 2.1, 5_000),
        ("models/gemini-3-pro-preview", 1.3, 4_500),
        ("qwen3-co1", 1.7, 16_384),
    ],
)
def test_a_model_is_counted_as_its_family(name: str, factor: float, image: int) -> None:
    found = family_of(name)
    assert (found.most, found.image) == (factor, image)


def test_everything_that_reaches_the_model_counts() -> None:
    def count(*blocks: Any, **more: Any) -> int:
        prompt = Prompt(model="m", messages=(Message(role="user", blocks=blocks),), **more)
        return most_tokens(prompt, "claude-opus-5")

    nothing = count()
    words = "several different words " * 20
    source = Source(media_type="application/pdf", data="A" * 40_000)
    grown = {
        "text": count(Text(text=words)),
        "thinking": count(Thinking(text=words)),
        "hidden thinking": count(Thinking(signature=Opaque(origin="a", kind="signature", data="x" * 800))),
        "call": count(ToolCall(id="1", name="f", arguments=words)),
        "result": count(ToolResult(call_id="1", content=(Text(text=words),))),
        "document": count(Document(source=Source(text=words))),
        "tool": count(tools=(Tool(name="f", description=words),)),
        "foreign": count(foreign={"tools[0].web_search": {"about": words}}),
    }
    assert {name: tokens - nothing for name, tokens in grown.items() if tokens - nothing < 60} == {}
    assert count(Image(source=Source(url="https://example.com/a.png"))) - nothing == 5_000
    assert count(ToolResult(call_id="1", content=(Image(source=source),))) - nothing >= 5_000
    assert count(Document(source=source)) - nothing == 30_000
    assert count(Document(source=Source(file_id="f"))) - nothing == 8_000
    assert count(Audio(source=Source(data="A" * 128_000))) - nothing == 3_001


def test_reasoning_pictures_and_tools_are_no_reason_to_refuse() -> None:
    blocks = (
        Thinking(text="a b c " * 1000, signature=Opaque(origin="a", kind="signature", data="x" * 8000)),
        Image(source=Source(data="A" * 100_000)),
        Document(source=Source(data="A" * 100_000)),
    )
    prompt = Prompt(
        model="m",
        messages=(Message(role="user", blocks=blocks),),
        tools=(Tool(name="f", description="a b c " * 1000),),
    )
    assert least_tokens(prompt, MODELS) == 0


@given(st.lists(st.text(alphabet="ab \n", max_size=200).map(lambda text: text * 1000), max_size=3))
@settings(max_examples=20, deadline=None)
def test_slices_are_short_and_lose_nothing(texts: list[str]) -> None:
    pieces = list(slices(texts))
    assert "".join(pieces) == "".join(texts)
    assert max(map(len, pieces), default=0) <= 32_768


def test_a_text_in_slices_has_as_many_tokens_as_the_whole() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 5000
    assert sum(map(count_tokens, slices([text]))) == count_tokens(text)


def test_other_calls_go_on_while_a_long_text_is_counted() -> None:
    turns = []

    def go_on() -> None:
        for turn in range(50):
            turns.append(turn)
            gevent.sleep(0)

    gevent.spawn(go_on)
    most_tokens(said("word " * 400_000), "gpt-4o")
    assert len(turns) == 50


def test_nothing_is_loaded_before_the_first_count() -> None:
    code = """
import sys
from app.gateway import token_counts
from app import create_app
loaded = [name for name in sys.modules if "bpe_openai" in name]
print(token_counts.count_tokens("hello world"), loaded, "bpe_openai" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2 [] False\n", done.stderr
