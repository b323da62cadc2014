"""A lenient vendor's reading of a request, and its bill.

Names of fields count in any case, the last of two wins, and so does the larger of two bounds; without a bound the
vendor writes as much as its model can. The bill is worked out without the gateway's own code: from `PRICED_HERE`, or by
genai-prices itself.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

from genai_prices import Usage, calc_price

LONGEST = 32_768  # tokens that a model can write, whatever it is asked for
TOKENS_OF_FILE = 60_000  # nobody can tell from its id, nor from compressed bytes
TOKENS_OF_IMAGE = {"low": 85, "high": 2_000}
# What the models cost that prices.yaml names: nano-dollars a token, prompt and completion.
PRICED_HERE = {"plain": (100, 400), "dear": (5_000, 20_000), "backup": (300, 1_200), "vectors": (50, 0)}
# And those whose price genai-prices knows.
PRICED_THERE = frozenset(
    {"gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-5-mini", "gpt-5-nano", "gpt-audio-mini", "text-embedding-3-small"}
)
_PIECES = re.compile(r"[A-Za-z]{1,6}|[0-9]{1,3}|[^\sA-Za-z0-9]")


def prices_yaml(provider: str) -> str:
    """`PRICED_HERE` as the gateway wants it: dollars per million tokens."""
    rows = (f"  {name}: {{prompt: {p / 1000}, completion: {c / 1000}}}" for name, (p, c) in PRICED_HERE.items())
    return f"{provider}:\n" + "\n".join(rows) + "\n"


class VendorRefusal(Exception):
    """The vendor's 400: nothing is billed."""


@dataclass
class BilledAttempt:
    """One line of the books: a request that reached the vendor, and what it took."""

    model: str
    manner: str
    tier: str = "default"
    prompt: int = 0
    audio_in: int = 0
    written: int = 0
    audio_out: int = 0
    searches: int = 0
    extra: int = 0  # completion tokens beyond the bound: rejected predictions
    streamed: bool = False
    reported: bool = False  # the usage went out, in full

    def nanousd(self) -> int:
        """The exact bill, rounded down."""
        completion = self.written + self.extra
        if self.model in PRICED_HERE:
            prompt_rate, completion_rate = PRICED_HERE[self.model]
            return self.prompt * prompt_rate + completion * completion_rate
        counts: dict[str, int] = {"input_tokens": self.prompt, "output_tokens": completion}
        optional = {
            "input_audio_tokens": self.audio_in,
            "output_audio_tokens": self.audio_out,
            "web_searches": self.searches,
        }
        counts |= {name: count for name, count in optional.items() if count}
        context = {"service_tier": self.tier} if self.tier != "default" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = calc_price(Usage(**counts), self.model, provider_id="openai", price_context=context)
        return int(found.total_price * 1_000_000_000)


@dataclass
class VendorRequest:
    """A request as the vendor understands it."""

    model: str
    prompt: int
    audio_in: int
    tokens: int  # that each choice will have
    choices: int
    stream: bool
    usage_wanted: bool
    tier: str
    thinks: bool
    speaks: bool
    searches: int
    prediction: int


def _merged(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name.lower(): value for name, value in pairs}


def understood(body: bytes, embeddings: bool, chance: int) -> VendorRequest:
    try:
        fields = json.loads(body, object_pairs_hook=_merged)
    except (ValueError, RecursionError) as exc:
        raise VendorRefusal("no JSON") from exc
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        raise VendorRefusal("no model")
    model = fields["model"]
    if model not in PRICED_HERE and model not in PRICED_THERE:
        raise VendorRefusal(f"no such model: {model}")
    if embeddings:
        return VendorRequest(model, _tokens(fields.get("input")), 0, 0, 1, False, False, "default", False, False, 0, 0)
    prompt, audio_in = _prompt(fields)
    bounds = [_whole_number(fields.get(name), name) for name in ("max_tokens", "max_completion_tokens")]
    # Zero and less is what a lenient parser takes for "not set".
    bound = max((b for b in bounds if b is not None and b > 0), default=LONGEST)
    choices = _whole_number(fields.get("n"), "n")
    if choices is not None and not 1 <= choices <= 128:
        raise VendorRefusal("n")
    options = fields.get("stream_options")
    searches = 1 if fields.get("web_search_options") is not None else 0
    if searches and model in PRICED_HERE:
        raise VendorRefusal("web_search_options")
    modalities = fields.get("modalities") or []
    if not isinstance(modalities, list):
        raise VendorRefusal("modalities")
    speaks = "audio" in modalities
    if (speaks or audio_in) and model != "gpt-audio-mini":
        raise VendorRefusal("modalities")
    prediction = fields.get("prediction")
    return VendorRequest(
        model=model,
        prompt=prompt,
        audio_in=audio_in,
        tokens=min(bound, LONGEST),
        choices=choices or 1,
        stream=fields.get("stream") is True,
        usage_wanted=isinstance(options, dict) and options.get("include_usage") is True,
        tier=_tier(fields.get("service_tier"), chance),
        speaks=speaks,
        searches=searches,
        thinks=fields.get("reasoning_effort") in ("medium", "high"),
        prediction=_tokens(prediction.get("content")) if isinstance(prediction, dict) else 0,
    )


def _whole_number(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise VendorRefusal(name)
    return int(value)


def _tier(wanted: Any, chance: int) -> str:
    """Returns the tier that it bills: the requested one, the standard one, or the dearest, as it likes."""
    if wanted is not None and not isinstance(wanted, str):
        raise VendorRefusal("service_tier")
    return ("priority", wanted if wanted in ("flex", "priority") else "default", "default")[chance % 3]


def _prompt(fields: dict[str, Any]) -> tuple[int, int]:
    """Prompt tokens, and those of them that are audio."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise VendorRefusal("messages")
    count, audio = 0, 0
    for message in messages:
        if not isinstance(message, dict):
            raise VendorRefusal("messages")
        count += 4
        content = message.get("content")
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if not isinstance(part, dict):
                raise VendorRefusal("content")
            kind = part.get("type")
            if kind == "image_url":
                image = part.get("image_url")
                detail = image.get("detail") if isinstance(image, dict) else None
                count += TOKENS_OF_IMAGE["low" if detail == "low" else "high"]
            elif kind == "input_audio":
                audio += len(json.dumps(part)) // 10
            elif kind in ("text", "refusal"):
                count += _tokens(part.get("text"))
            else:  # files, videos and what else there may be
                count += TOKENS_OF_FILE
        count += _tokens(message.get("tool_calls"))
    return count + audio + sum(_tokens(fields.get(name)) for name in ("tools", "functions", "response_format")), audio


def _tokens(value: Any) -> int:
    """Rough, and honest: never more than a byte-level vocabulary has for it."""
    if value is None:
        return 0
    if isinstance(value, list) and all(isinstance(each, int) for each in value):
        return len(value)
    if isinstance(value, list) and all(isinstance(each, str | list) for each in value):
        return sum(_tokens(each) for each in value)
    return len(_PIECES.findall(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
