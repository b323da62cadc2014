"""Usage objects of vendors, in their own words, and what each costs by the vendor's price list, reckoned by hand.

Prices are US dollars per million tokens, which are also millionths of a dollar a token: 1000 tokens at $3 a million are
3000 micro-dollars. A web search at $10 a thousand is 10,000 of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from app.domain.generation import DialectName


class UsageObject(NamedTuple):
    """What a vendor says of an answer's cost, the cost, and the columns of the ledger that show it.

    `prices` is the vendor's id in genai-prices. `bill` are fields of the answer. In a messages stream `usage` is what
    `message_start` reports and `delta_usage` what `message_delta` does; `whole_usage` is what a whole answer says.
    """

    name: str
    dialect: DialectName
    prices: str
    model: str
    bill: dict[str, Any]
    micro_usd: float
    row: dict[str, Any]

    @property
    def whole_bill(self) -> dict[str, Any]:
        """The fields of a whole answer: by default a messages answer has the last counters of the stream."""
        if "delta_usage" not in self.bill:
            return self.bill
        last = {name: value for name, value in self.bill["delta_usage"].items() if value is not None}
        return {"usage": self.bill.get("whole_usage") or {**self.bill["usage"], **last}}

    @property
    def streamed_bill(self) -> dict[str, Any]:
        """The fields of a streamed answer."""
        return {name: value for name, value in self.bill.items() if name != "whole_usage"}


def _messages(name: str, model: str, micro_usd: float, row: dict[str, Any], **usage: Any) -> UsageObject:
    """Returns an object of Anthropic's: `delta` is what `message_delta` says, `whole` what a whole answer does."""
    more = {"delta_usage": usage.pop("delta", None), "whole_usage": usage.pop("whole", None)}
    prices = usage.pop("prices", "anthropic")
    bill = {"usage": usage} | {name: value for name, value in more.items() if value is not None}
    return UsageObject(name, "messages", prices, model, bill, micro_usd, row)


def _openai(
    name: str,
    dialect: DialectName,
    model: str,
    micro_usd: float,
    row: dict[str, Any],
    tier: str = "default",
    prices: str = "openai",
    **usage: Any,
) -> UsageObject:
    return UsageObject(name, dialect, prices, model, {"usage": usage, "service_tier": tier}, micro_usd, row)


def _gemini(name: str, model: str, micro_usd: float, row: dict[str, Any], **usage: Any) -> UsageObject:
    return UsageObject(name, "gemini", "google", model, {"usageMetadata": usage}, micro_usd, row)


def _modality(**tokens: int) -> list[dict[str, Any]]:
    return [{"modality": name.upper(), "tokenCount": count} for name, count in tokens.items()]


_SPLIT_5M = {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 0}

MESSAGES = [
    _messages(
        "M plain",
        "claude-sonnet-4-5",
        1000 * 3 + 500 * 15,
        {"prompt_tokens": 1000, "completion_tokens": 500},
        input_tokens=1000,
        output_tokens=500,
    ),
    _messages(
        "M cache read and written",
        "claude-sonnet-4-5",
        100 * 3 + 50_000 * 0.30 + 2000 * 3.75 + 300 * 15,
        {"prompt_tokens": 52_100, "cached_tokens": 50_000, "cache_write_tokens": 2000, "cache_write_1h_tokens": 0},
        input_tokens=100,
        cache_read_input_tokens=50_000,
        cache_creation_input_tokens=2000,
        cache_creation=_SPLIT_5M,
        output_tokens=300,
    ),
    _messages(
        "M written for five minutes and for an hour",
        "claude-sonnet-4-5",
        10 * 3 + 500 * 3.75 + 1500 * 6 + 20 * 15,
        {"prompt_tokens": 2010, "cache_write_tokens": 2000, "cache_write_1h_tokens": 1500},
        input_tokens=10,
        cache_creation_input_tokens=2000,
        cache_creation={"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 1500},
        output_tokens=20,
    ),
    _messages(
        "M split shorter than the total",  # the 1200 tokens of which it does not tell are for five minutes
        "claude-sonnet-4-5",
        10 * 3 + (500 + 1200) * 3.75 + 300 * 6 + 20 * 15,
        {"prompt_tokens": 2010, "cache_write_tokens": 2000, "cache_write_1h_tokens": 300},
        input_tokens=10,
        cache_creation_input_tokens=2000,
        cache_creation={"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 300},
        output_tokens=20,
    ),
    _messages(
        "M null cache_creation",
        "claude-sonnet-4-5",
        10 * 3 + 2000 * 3.75 + 20 * 15,
        {"prompt_tokens": 2010, "cache_write_tokens": 2000, "cache_write_1h_tokens": 0},
        input_tokens=10,
        cache_creation_input_tokens=2000,
        cache_creation=None,
        output_tokens=20,
    ),
    _messages(
        "M null in the split",
        "claude-sonnet-4-5",
        10 * 3 + 600 * 3.75 + 400 * 6 + 20 * 15,
        {"prompt_tokens": 1010, "cache_write_tokens": 1000, "cache_write_1h_tokens": 400},
        input_tokens=10,
        cache_creation_input_tokens=1000,
        cache_creation={"ephemeral_5m_input_tokens": None, "ephemeral_1h_input_tokens": 400},
        output_tokens=20,
    ),
    _messages(
        "M null total beside a split",
        "claude-sonnet-4-5",
        10 * 3 + 600 * 3.75 + 400 * 6 + 20 * 15,
        {"prompt_tokens": 1010, "cache_write_tokens": 1000, "cache_write_1h_tokens": 400},
        input_tokens=10,
        cache_creation_input_tokens=None,
        cache_creation={"ephemeral_5m_input_tokens": 600, "ephemeral_1h_input_tokens": 400},
        output_tokens=20,
    ),
    _messages(
        "M every optional counter null",
        "claude-haiku-4-5",
        10 * 1 + 5 * 5,
        {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "cache_write_tokens": 0, "searches": 0},
        input_tokens=10,
        cache_read_input_tokens=None,
        cache_creation_input_tokens=None,
        cache_creation=None,
        server_tool_use=None,
        service_tier=None,
        output_tokens_details=None,
        output_tokens=5,
    ),
    _messages(
        "M Kimi takes the prompt back in message_delta",  # 45,000 at first, of which the cache then had 43,800
        "kimi-k2.6",
        1200 * 0.95 + 43_800 * 0.16 + 700 * 4,
        {"prompt_tokens": 45_000, "cached_tokens": 43_800, "completion_tokens": 700},
        prices="moonshotai",
        input_tokens=45_000,
        output_tokens=0,
        delta={"input_tokens": 1200, "cache_read_input_tokens": 43_800, "output_tokens": 700},
    ),
    _messages(
        "M Qwen reports everything in message_delta, and less",
        "qwen3.8-max",
        7000 * 2 + 40 * 6,
        {"prompt_tokens": 7000, "completion_tokens": 40},
        prices="quicksilverpro",
        input_tokens=9000,
        output_tokens=90,
        delta={"input_tokens": 7000, "output_tokens": 40},
    ),
    _messages(
        "M message_delta repeats what message_start said",
        "claude-sonnet-4-5",
        100 * 3 + 900 * 0.30 + 50 * 15,
        {"prompt_tokens": 1000, "cached_tokens": 900, "completion_tokens": 50},
        input_tokens=100,
        cache_read_input_tokens=900,
        output_tokens=1,
        delta={"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 50},
    ),
    _messages(
        "M nulls in message_delta change nothing",
        "claude-sonnet-4-5",
        100 * 3 + 900 * 0.30 + 50 * 15,
        {"prompt_tokens": 1000, "cached_tokens": 900},
        input_tokens=100,
        cache_read_input_tokens=900,
        output_tokens=1,
        delta={"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 50},
    ),
    _messages(
        "M zeros for the prompt in message_delta",  # a prompt of nothing is no count
        "claude-sonnet-4-5",
        100 * 3 + 900 * 0.30 + 50 * 15,
        {"prompt_tokens": 1000, "cached_tokens": 900},
        input_tokens=100,
        cache_read_input_tokens=900,
        output_tokens=1,
        delta={
            "input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "output_tokens": 50,
        },
        whole={"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 50},
    ),
    _messages(
        "M message_delta takes back what was written",  # and with it the split of message_start
        "claude-sonnet-4-5",
        100 * 3 + 200 * 3.75 + 50 * 15,
        {"prompt_tokens": 300, "cache_write_tokens": 200, "cache_write_1h_tokens": 0},
        input_tokens=100,
        cache_creation_input_tokens=900,
        cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 900},
        output_tokens=1,
        delta={"input_tokens": 100, "cache_creation_input_tokens": 200, "output_tokens": 50},
        whole={"input_tokens": 100, "cache_creation_input_tokens": 200, "output_tokens": 50},
    ),
    _messages(
        "M searches and fetches",  # fetches cost only the tokens that they read
        "claude-sonnet-4-5",
        8000 * 3 + 200 * 15 + 3 * 10_000,
        {"searches": 3, "unpriced": 0},
        input_tokens=8000,
        output_tokens=200,
        server_tool_use={"web_search_requests": 3, "web_fetch_requests": 2},
    ),
    _messages(
        "M fast mode",
        "claude-opus-4-8",
        1000 * 10 + 500 * 50,
        {"service_tier": "fast"},
        input_tokens=1000,
        output_tokens=500,
        service_tier="standard",
        speed="fast",
    ),
    _messages(
        "M fast mode with a cache",
        "claude-opus-4-8",
        10 * 10 + 1000 * 1 + 200 * 12.50 + 100 * 20 + 5 * 50,
        {"service_tier": "fast", "cached_tokens": 1000, "cache_write_tokens": 300, "cache_write_1h_tokens": 100},
        input_tokens=10,
        cache_read_input_tokens=1000,
        cache_creation_input_tokens=300,
        cache_creation={"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
        output_tokens=5,
        speed="fast",
    ),
    _messages(
        "M priority tier",  # committed capacity has no price list: the standard one
        "claude-haiku-4-5",
        1000 * 1 + 100 * 5,
        {"service_tier": "priority"},
        input_tokens=1000,
        output_tokens=100,
        service_tier="priority",
    ),
    _messages(
        "M batch tier",
        "claude-haiku-4-5",
        1000 * 0.50 + 100 * 2.50,
        {"service_tier": "batch"},
        input_tokens=1000,
        output_tokens=100,
        service_tier="batch",
    ),
    _messages(
        "M above 200k with the cache",  # 150,000 + 60,000 are above, and then every token costs more
        "claude-sonnet-4-5",
        150_000 * 6 + 60_000 * 0.60 + 1000 * 22.50,
        {"prompt_tokens": 210_000, "cached_tokens": 60_000},
        input_tokens=150_000,
        cache_read_input_tokens=60_000,
        output_tokens=1000,
    ),
    _messages(
        "M above 200k by what is written",
        "claude-sonnet-4-5",
        1 * 6 + 150_000 * 7.50 + 50_000 * 12 + 10 * 22.50,
        {"prompt_tokens": 200_001, "cache_write_tokens": 200_000, "cache_write_1h_tokens": 50_000},
        input_tokens=1,
        cache_creation_input_tokens=200_000,
        cache_creation={"ephemeral_5m_input_tokens": 150_000, "ephemeral_1h_input_tokens": 50_000},
        output_tokens=10,
    ),
    _messages(
        "M 200k and no more",
        "claude-sonnet-4-5",
        150_000 * 3 + 50_000 * 0.30 + 1000 * 15,
        {"prompt_tokens": 200_000},
        input_tokens=150_000,
        cache_read_input_tokens=50_000,
        output_tokens=1000,
    ),
    _messages(
        "M inference in the US",  # 1.1 times the tokens, not the search
        "claude-opus-4-8",
        (1000 * 5 + 100 * 25) * 1.1 + 10_000,
        {"inference_geo": "us", "searches": 1},
        input_tokens=1000,
        output_tokens=100,
        inference_geo="us",
        server_tool_use={"web_search_requests": 1, "web_fetch_requests": 0},
    ),
    _messages(
        "M inference anywhere",
        "claude-opus-4-8",
        1000 * 5 + 100 * 25,
        {"inference_geo": ""},
        input_tokens=1000,
        output_tokens=100,
        inference_geo="global",
    ),
    _messages(
        "M thinking is a part of the output",
        "claude-sonnet-4-5",
        100 * 3 + 500 * 15,
        {"completion_tokens": 500, "reasoning_tokens": 400},
        input_tokens=100,
        output_tokens=500,
        output_tokens_details={"thinking_tokens": 400},
    ),
    _messages(
        "M compaction beside the totals",
        "claude-sonnet-4-6",
        (1000 + 50_000) * 3 + (100 + 2000) * 15,
        {"prompt_tokens": 51_000, "completion_tokens": 2100},
        input_tokens=1000,
        output_tokens=100,
        iterations=[
            {"type": "compaction", "input_tokens": 50_000, "output_tokens": 2000},
            {"type": "message", "input_tokens": 1000, "output_tokens": 100},
        ],
    ),
]

_TEXT = {"type": "output_text", "text": "Hello there.", "annotations": []}
_ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [_TEXT]}
_FILES = {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"], "results": None}


def _search(kind: str) -> dict[str, Any]:
    return {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": kind, "query": "q"}}


RESPONSES = [
    _openai(
        "R cached and reasoning",
        "responses",
        "gpt-5",
        600 * 1.25 + 400 * 0.125 + 500 * 10,
        {"prompt_tokens": 1000, "cached_tokens": 400, "reasoning_tokens": 300, "service_tier": ""},
        input_tokens=1000,
        input_tokens_details={"cached_tokens": 400, "cache_write_tokens": 0},
        output_tokens=500,
        output_tokens_details={"reasoning_tokens": 300},
        total_tokens=1500,
    ),
    _openai(
        "R cache_write_tokens",
        "responses",
        "gpt-5.6-sol",
        2000 * 4 + 2000 * 0.40 + 6000 * 5 + 500 * 20,
        {"prompt_tokens": 10_000, "cached_tokens": 2000, "cache_write_tokens": 6000},
        input_tokens=10_000,
        input_tokens_details={"cached_tokens": 2000, "cache_write_tokens": 6000},
        output_tokens=500,
        output_tokens_details={"reasoning_tokens": 0},
        total_tokens=10_500,
    ),
    _openai(
        "R fast tier",
        "responses",
        "gpt-5",
        1000 * 2.50 + 100 * 20,
        {"service_tier": "fast"},
        tier="fast",
        input_tokens=1000,
        output_tokens=100,
        total_tokens=1100,
    ),
    _openai(
        "R flex tier with a cache",
        "responses",
        "gpt-5",
        600 * 0.625 + 400 * 0.0625 + 100 * 5,
        {"service_tier": "flex", "cached_tokens": 400},
        tier="flex",
        input_tokens=1000,
        input_tokens_details={"cached_tokens": 400, "cache_write_tokens": 0},
        output_tokens=100,
        output_tokens_details={"reasoning_tokens": 0},
        total_tokens=1100,
    ),
    _openai(
        "R above 272k",
        "responses",
        "gpt-5.4",
        200_000 * 5 + 100_000 * 0.50 + 1000 * 22.50,
        {"prompt_tokens": 300_000},
        input_tokens=300_000,
        input_tokens_details={"cached_tokens": 100_000, "cache_write_tokens": 0},
        output_tokens=1000,
        output_tokens_details={"reasoning_tokens": 0},
        total_tokens=301_000,
    ),
    _openai(
        "R null details",
        "responses",
        "gpt-5",
        1000 * 1.25 + 100 * 10,
        {"cached_tokens": 0, "reasoning_tokens": 0},
        input_tokens=1000,
        input_tokens_details=None,
        output_tokens=100,
        output_tokens_details=None,
        total_tokens=1100,
    ),
    _openai(
        "R priority above 272k, written",
        "responses",
        "gpt-5.6-sol",
        100_000 * 16 + 200_000 * 20 + 10 * 60,
        {"service_tier": "priority", "cache_write_tokens": 200_000},
        tier="priority",
        input_tokens=300_000,
        input_tokens_details={"cached_tokens": 0, "cache_write_tokens": 200_000},
        output_tokens=10,
        output_tokens_details={"reasoning_tokens": 0},
        total_tokens=300_010,
    ),
]

RESPONSES += [
    RESPONSES[0]._replace(
        name="R two searches, a page opened, a file searched",
        bill={
            **RESPONSES[0].bill,
            "output": [_ITEM, *(_search(kind) for kind in ("search", "search", "open_page")), _FILES],
        },
        micro_usd=RESPONSES[0].micro_usd + 2 * 10_000 + 2500,
        row={"searches": 2, "file_searches": 1, "unpriced": 0},
    ),
    RESPONSES[0]._replace(
        name="R a code interpreter, whose fee nobody knows",
        bill={**RESPONSES[0].bill, "output": [_ITEM, {"type": "code_interpreter_call", "id": "ci_1", "code": "1"}]},
        row={"unpriced": 1},
    ),
]

GEMINI = [
    _gemini(
        "G thoughts beside the candidates",
        "gemini-2.5-pro",
        800 * 1.25 + 200 * 0.125 + (300 + 700) * 10,
        {"prompt_tokens": 1000, "cached_tokens": 200, "completion_tokens": 1000, "reasoning_tokens": 700},
        promptTokenCount=1000,
        cachedContentTokenCount=200,
        candidatesTokenCount=300,
        thoughtsTokenCount=700,
        totalTokenCount=2000,
    ),
    _gemini(
        "G above 200k",
        "gemini-2.5-pro",
        150_000 * 2.50 + 100_000 * 0.25 + 1000 * 15,
        {"prompt_tokens": 250_000},
        promptTokenCount=250_000,
        cachedContentTokenCount=100_000,
        candidatesTokenCount=1000,
        totalTokenCount=251_000,
    ),
    _gemini(
        "G results of Google's tools are prompt",
        "gemini-2.5-flash",
        (100 + 5000) * 0.30 + 50 * 2.50,
        {"prompt_tokens": 5100},
        promptTokenCount=100,
        toolUsePromptTokenCount=5000,
        candidatesTokenCount=50,
        totalTokenCount=5150,
    ),
    _gemini(
        "G sound in",
        "gemini-2.5-flash",
        100 * 0.30 + 900 * 1 + 10 * 2.50,
        {"audio_prompt_tokens": 900},
        promptTokenCount=1000,
        promptTokensDetails=_modality(text=100, audio=900),
        candidatesTokenCount=10,
        totalTokenCount=1010,
    ),
    _gemini(
        "G sound in, from the cache",
        "gemini-2.5-flash",
        100 * 0.30 + 100 * 1 + 800 * 0.10 + 10 * 2.50,
        {"audio_prompt_tokens": 900, "audio_cached_tokens": 800, "cached_tokens": 800},
        promptTokenCount=1000,
        promptTokensDetails=_modality(text=100, audio=900),
        cachedContentTokenCount=800,
        cacheTokensDetails=_modality(audio=800),
        candidatesTokenCount=10,
        totalTokenCount=1010,
    ),
    _gemini(
        "G a picture out",
        "gemini-3-pro-image-preview",
        50 * 2 + 100 * 12 + 1120 * 120,
        {"image_completion_tokens": 1120},
        promptTokenCount=50,
        candidatesTokenCount=1220,
        candidatesTokensDetails=_modality(image=1120, text=100),
        totalTokenCount=1270,
    ),
    _gemini(
        "G thoughts alone",  # cut off before its first word: no candidates at all
        "gemini-2.5-flash",
        100 * 0.30 + 900 * 2.50,
        {"completion_tokens": 900, "reasoning_tokens": 900},
        promptTokenCount=100,
        thoughtsTokenCount=900,
        totalTokenCount=1000,
    ),
    _gemini(
        "G only the total tells of the thoughts",
        "gemini-2.5-flash",
        20 * 0.30 + 533 * 2.50,
        {"completion_tokens": 533},
        promptTokenCount=20,
        candidatesTokenCount=151,
        totalTokenCount=553,
    ),
]

_TOLD = {"content": {"role": "model", "parts": [{"text": "Hello there."}]}, "finishReason": "STOP", "index": 0}


def _grounded(model: str, micro_usd: float, row: dict[str, Any], **metadata: Any) -> UsageObject:
    """Returns an answer of ten tokens to a prompt of a thousand that Google grounded."""
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 10, "totalTokenCount": 1010}
    bill = {"usageMetadata": usage, "candidates": [{**_TOLD, "groundingMetadata": metadata}]}
    name = f"G grounded: {model}, {next(iter(metadata))}"
    return UsageObject(name, "gemini", "google", model, bill, micro_usd, row)


GEMINI += [
    _grounded(
        "gemini-3-pro-preview",
        1000 * 2 + 10 * 12 + 3 * 14_000,
        {"searches": 3},
        webSearchQueries=["one", "two", "three"],
    ),
    _grounded(
        "gemini-2.5-pro",  # by the prompt, not by the query
        1000 * 1.25 + 10 * 10 + 35_000,
        {"searches": 1},
        webSearchQueries=["one", "two", "three"],
    ),
    _grounded(
        "gemini-2.5-flash",
        1000 * 0.30 + 10 * 2.50,
        {"searches": 0, "unpriced": 1},
        groundingChunks=[{"maps": {"placeId": "p"}}],
    ),
]

CHAT = [
    _openai(
        "C cached and reasoning",
        "chat",
        "gpt-5",
        600 * 1.25 + 400 * 0.125 + 500 * 10,
        {"cached_tokens": 400, "reasoning_tokens": 300},
        prompt_tokens=1000,
        completion_tokens=500,
        total_tokens=1500,
        prompt_tokens_details={"cached_tokens": 400, "audio_tokens": 0},
        completion_tokens_details={"reasoning_tokens": 300, "audio_tokens": 0},
    ),
    _openai(
        "C cache_write_tokens at priority",
        "chat",
        "gpt-5.6-sol",
        2000 * 8 + 2000 * 0.80 + 6000 * 10 + 500 * 40,
        {"cache_write_tokens": 6000, "service_tier": "priority"},
        tier="priority",
        prompt_tokens=10_000,
        completion_tokens=500,
        total_tokens=10_500,
        prompt_tokens_details={"cached_tokens": 2000, "cache_write_tokens": 6000},
    ),
    _openai(
        "C sound in and out",
        "chat",
        "gpt-audio",
        200 * 2.50 + 800 * 32 + 100 * 10 + 200 * 64,
        {"audio_prompt_tokens": 800, "audio_completion_tokens": 200},
        prompt_tokens=1000,
        completion_tokens=300,
        total_tokens=1300,
        prompt_tokens_details={"audio_tokens": 800},
        completion_tokens_details={"audio_tokens": 200},
    ),
    _openai(
        "C Kimi's cached_tokens",
        "chat",
        "kimi-k2.6",
        200 * 0.95 + 800 * 0.16 + 100 * 4,
        {"cached_tokens": 800},
        prices="moonshotai",
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        cached_tokens=800,
    ),
    _openai(
        "C DeepSeek's cache hits",
        "chat",
        "deepseek-chat",
        200 * 0.27 + 800 * 0.07 + 100 * 1.10,
        {"cached_tokens": 800},
        prices="deepseek",
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        prompt_cache_hit_tokens=800,
        prompt_cache_miss_tokens=200,
    ),
    _openai(
        "C thinking beside the completion",
        "chat",
        "grok-4.3",
        32 * 1.25 + (9 + 94) * 2.50,
        {"completion_tokens": 103, "reasoning_tokens": 94},
        prices="x-ai",
        prompt_tokens=32,
        completion_tokens=9,
        total_tokens=135,
        completion_tokens_details={"reasoning_tokens": 94},
    ),
    _openai(
        "C a cost that is only noted",  # of a vendor whose numbers nobody vouches for
        "chat",
        "gpt-5-mini",
        1000 * 0.25 + 100 * 2,
        {"reported_cost_nanousd": 123_000, "computed_cost_nanousd": 450_000},
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        cost=0.000123,
    ),
    _openai(
        "C OpenRouter's cost",
        "chat",
        "anthropic/claude-sonnet-4.5",
        4230,
        {"reported_cost_nanousd": 4_230_000, "computed_cost_nanousd": 1000 * 3000 + 100 * 15_000},
        prices="openrouter",
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        cost=0.00423,
        is_byok=False,
        cost_details={"upstream_inference_cost": None},
    ),
    _openai(
        "C OpenRouter's cost with a key of one's own",
        "chat",
        "anthropic/claude-sonnet-4.5",
        225 + 4500,
        {"reported_cost_nanousd": 4_725_000},
        prices="openrouter",
        prompt_tokens=1000,
        completion_tokens=100,
        total_tokens=1100,
        cost=0.000225,
        is_byok=True,
        cost_details={"upstream_inference_cost": 0.0045},
    ),
]

USAGE_OBJECTS = [*MESSAGES, *RESPONSES, *GEMINI, *CHAT]
