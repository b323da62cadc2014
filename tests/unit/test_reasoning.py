"""Reasoning before a tool call comes back to the vendor that wrote it, through clients that leave it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.domain.content import (
    Answer,
    Block,
    BlockEnded,
    BlockStarted,
    Delta,
    Event,
    Message,
    Opaque,
    Prompt,
    Signed,
    Started,
    Stopped,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from app.providers.reasoning import ReasoningCollector, ReasoningMemory, recalled
from app.store.reasoning import Reasoning
from app.store.redis.client import Redis
from tests.support.servers import RedisServer

SIGNED = Opaque("claude", "signature", "c2ln")
THOUGHT = Opaque("google", "thoughtSignature", "dGhvdWdodA")


class Kept:
    """Reasoning in a dict, and the calls that were asked for."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], bytes] = {}
        self.asked: list[Sequence[str]] = []

    def recall(self, key_id: str, call_ids: Sequence[str]) -> Mapping[str, bytes]:
        self.asked.append(call_ids)
        return {name: self.entries[key_id, name] for name in call_ids if (key_id, name) in self.entries}

    def remember(self, key_id: str, entries: Mapping[str, bytes]) -> None:
        self.entries |= {(key_id, name): data for name, data in entries.items()}

    @property
    def memory(self) -> ReasoningMemory:
        return ReasoningMemory(self.recall, self.remember)


def answer(*blocks: Block) -> Answer:
    return Answer(id="1", model="m", blocks=blocks, stop="tool_calls")


def history(*blocks: Block) -> Prompt:
    """A conversation whose client sent only these blocks of the assistant's turn back."""
    results = tuple(ToolResult(call_id=block.id) for block in blocks if isinstance(block, ToolCall))
    turns = (Message(role="assistant", blocks=blocks), Message(role="user", blocks=results))
    return Prompt(model="m", messages=(Message(role="user", blocks=(Text(text="Hi"),)), *turns))


def assistant(prompt: Prompt) -> tuple[Block, ...]:
    return prompt.messages[1].blocks


def calls_in(blocks: Iterable[Block]) -> list[ToolCall]:
    return [block for block in blocks if isinstance(block, ToolCall)]


def streamed(collector: ReasoningCollector, events: Iterable[Event]) -> list[Event]:
    return [each for event in events for each in collector.feed(event)]


def test_thinking_comes_back_before_the_call_that_it_led_to() -> None:
    kept = Kept()
    thinking, call = Thinking(text="Hm.", signature=SIGNED), ToolCall(id="toolu_1", name="read", arguments="{}")
    ReasoningCollector("k1", "c1", kept.memory).answer(answer(thinking, Text(text="Let me look."), call))
    assert assistant(recalled(history(Text(text="Let me look."), call), "k1", kept.memory)) == (
        Text(text="Let me look."),
        thinking,
        call,
    )


def test_a_calls_own_signature_comes_back_on_it() -> None:
    kept = Kept()
    calls = [ToolCall(id="", name="read", signature=THOUGHT), ToolCall(id="", name="list")]
    given = ReasoningCollector("k1", "c1", kept.memory).answer(answer(*calls)).blocks
    assert [call.id for call in calls_in(given)] == ["call_c1_0", "call_c1_1"]
    bare = [ToolCall(id=call.id, name=call.name) for call in calls_in(given)]
    restored = assistant(recalled(history(*bare), "k1", kept.memory))
    assert [call.signature for call in calls_in(restored)] == [THOUGHT, None]


def test_a_streams_reasoning_is_kept_by_the_time_that_its_call_is_whole() -> None:
    kept = Kept()
    collector = ReasoningCollector("k1", "c1", kept.memory)
    begun: list[Event] = [
        Started(id="1", model="m"),
        BlockStarted(index=0, block=Thinking()),
        Delta(index=0, text="H"),
        Delta(index=0, text="m."),
        Signed(index=0, signature=SIGNED),
        BlockEnded(index=0),
        BlockStarted(index=1, block=ToolCall(id="functions.read:0", name="read")),
        Delta(index=1, text="{}"),
    ]
    written = streamed(collector, [*begun, BlockEnded(index=1)])
    [call] = calls_in(event.block for event in written if isinstance(event, BlockStarted))
    named = call.id
    assert named != "functions.read:0"
    restored = assistant(recalled(history(ToolCall(id=named, name="read")), "k1", kept.memory))
    assert restored[0] == Thinking(text="Hm.", signature=SIGNED)
    assert streamed(collector, [Stopped(stop="tool_calls")]) == [Stopped(stop="tool_calls")]


def test_a_signature_that_comes_behind_a_streamed_call_is_its_own() -> None:
    kept = Kept()
    collector = ReasoningCollector("k1", "c1", kept.memory)
    call = ToolCall(id="a", name="read")
    events: list[Event] = [BlockStarted(index=0, block=call), Signed(index=0, signature=THOUGHT), BlockEnded(index=0)]
    assert streamed(collector, events) == events
    [restored] = calls_in(assistant(recalled(history(call), "k1", kept.memory)))
    assert restored.signature == THOUGHT


def test_nothing_is_asked_for_where_nothing_is_missing() -> None:
    kept = Kept()
    whole = history(Thinking(text="Hm.", signature=SIGNED), ToolCall(id="a", name="read"))
    assert recalled(whole, "k1", kept.memory) == whole
    plain = Prompt(model="m", messages=(Message(role="user", blocks=(Text(text="Hi"),)),))
    assert recalled(plain, "k1", kept.memory) == plain
    assert kept.asked == []


def test_another_keys_reasoning_stays_where_it_is() -> None:
    kept = Kept()
    call = ToolCall(id="a", name="read", signature=THOUGHT)
    ReasoningCollector("k1", "c1", kept.memory).answer(answer(call))
    [restored] = calls_in(assistant(recalled(history(ToolCall(id="a", name="read")), "k2", kept.memory)))
    assert restored.signature is None


def test_unsigned_thinking_and_what_cannot_be_read_are_not_replayed() -> None:
    kept = Kept()
    ReasoningCollector("k1", "c1", kept.memory).answer(answer(Thinking(text="Hm."), ToolCall(id="a", name="read")))
    assert kept.entries == {}
    kept.entries["k1", "a"] = b"not JSON"
    assert assistant(recalled(history(ToolCall(id="a", name="read")), "k1", kept.memory)) == (
        ToolCall(id="a", name="read"),
    )


def test_redis_keeps_reasoning_by_key_for_its_time_and_within_its_size(redis_server: RedisServer) -> None:
    redis = Redis(redis_server.url)
    store = Reasoning(redis=redis, ttl_s=60, max_bytes=10)
    store.remember("k1", {"a": b"one", "b": b"more than ten"})
    assert store.recall("k1", ["a", "b", "c", "a"]) == {"a": b"one"}
    assert store.recall("k2", ["a"]) == {}
    [name] = redis.execute("KEYS", "penstock:reasoning:k1:*")
    assert 0 < redis.execute("TTL", name) <= 60


def test_a_redis_that_is_down_loses_reasoning_and_no_call() -> None:
    store = Reasoning(redis=Redis("redis://127.0.0.1:1/0"), ttl_s=60, max_bytes=10)
    store.remember("k1", {"a": b"one"})
    assert store.recall("k1", ["a"]) == {}


def test_reasoning_is_put_back_once_however_often_its_call_is_named() -> None:
    kept = Kept()
    call = ToolCall(id="a", name="read")
    ReasoningCollector("k1", "c1", kept.memory).answer(answer(Thinking(text="Hm.", signature=SIGNED), call))
    restored = assistant(recalled(history(*[call] * 1000), "k1", kept.memory))
    assert sum(isinstance(block, Thinking) for block in restored) == 1


def test_so_much_reasoning_is_put_back_and_the_newest_first() -> None:
    kept = Kept()
    long = Opaque("claude", "signature", "s" * 300_000)
    calls = [ToolCall(id=f"call-{n}", name="read") for n in range(5)]
    for call in calls:
        ReasoningCollector("k1", "c1", kept.memory).answer(answer(Thinking(signature=long), call))
    restored = assistant(recalled(history(*calls), "k1", kept.memory))
    assert sum(isinstance(block, Thinking) for block in restored) == 3
    assert isinstance(restored[-2], Thinking)
