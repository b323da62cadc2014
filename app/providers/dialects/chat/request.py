"""Requests for chat completions, to and from the neutral form."""

from __future__ import annotations

from typing import Any

import msgspec

from app.domain.content import Prompt, Reasoning
from app.domain.generation import GenerationRequest
from app.errors import InvalidRequest
from app.providers.dialects.chat.history import HistoryDecoder, encode_messages
from app.providers.dialects.chat.parts import TITLE
from app.providers.dialects.chat.tools import (
    decode_format,
    decode_tool_choice,
    decode_tools,
    encode_format,
    encode_tool_choice,
    encode_tools,
    without_custom_tools,
)
from app.providers.dialects.dialect import Outgoing
from app.providers.dialects.fields import Fields, Notes
from app.providers.dialects.tool_ids import IdRule, with_valid_ids

TOOL_IDS = IdRule(most=40)
_MOST_STOPS = 4
_SERVICE_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_NEVER_DROPPED = frozenset({"model", "messages", "tools", "tool_choice", "stream", "stream_options"})
# What changes nothing of the answer: labels, storage, speed, the cache.
_HINTS = (
    "metadata",
    "store",
    "prediction",
    "prompt_cache_options",
    "prompt_cache_retention",
    "cache_control",
    "user",
    "safety_identifier",
)
# A vendor that is told a number of tokens to think with thinks about so long at these efforts.
_EFFORT_BUDGETS = ((0, "none"), (4_096, "low"), (16_384, "medium"))


def decode_request(request: GenerationRequest) -> Prompt:
    """Returns what the request asks. Raises `InvalidRequest` for a field of another type than OpenAI's."""
    notes = Notes()
    body = Fields(_values(request), "", notes)
    messages = HistoryDecoder().decode(body.objects("messages"))
    if (choices := body.take("n", int)) is not None and choices > 1:
        notes.foreign["n"] = choices
    for name in ("model", "stream", "max_tokens", "max_completion_tokens"):
        body.any(name)  # the request has them
    prompt = Prompt(
        model=request.model,
        messages=messages,
        tools=decode_tools(body),
        tool_choice=decode_tool_choice(body),
        parallel_tool_calls=body.take("parallel_tool_calls", bool),
        format=decode_format(body),
        reasoning=_decode_reasoning(body),
        max_output_tokens=request.max_output_tokens,
        temperature=body.take("temperature", float),
        top_p=body.take("top_p", float),
        top_k=body.take("top_k", int),
        stop=_decode_stop(body),
        seed=body.take("seed", int),
        presence_penalty=body.take("presence_penalty", float),
        frequency_penalty=body.take("frequency_penalty", float),
        top_logprobs=_decode_logprobs(body),
        verbosity=body.take("verbosity", str),
        user=body.text("user") or body.text("safety_identifier"),
        service_tier=body.text("service_tier"),
        cache_key=body.text("prompt_cache_key"),
        stream=bool(request.stream),
        hints=notes.hints,
        foreign=notes.foreign,
    )
    _note_the_rest(body)
    return prompt


def _values(request: GenerationRequest) -> dict[str, Any]:
    values = {}
    for name, raw in request.fields.items():
        try:
            values[name] = msgspec.json.decode(raw)
        except (ValueError, RecursionError):
            raise InvalidRequest(f"The value is not valid JSON: `{name}`.", param=name) from None
    return values


def _note_the_rest(body: Fields) -> None:
    options = body.object("stream_options")
    if options is not None:
        options.any("include_usage")
        options.rest_is_hint()
    if (modalities := body.any("modalities")) not in (None, ["text"]):
        body.notes.foreign["modalities"] = modalities
    if bias := body.any("logit_bias"):
        body.notes.foreign["logit_bias"] = bias
    body.hint(*_HINTS)
    body.rest_is_foreign()


def _decode_stop(body: Fields) -> tuple[str, ...]:
    stop = body.any("stop")
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("Expected a string or an array of strings: `stop`.", param="stop")
    return tuple(texts)


def _decode_logprobs(body: Fields) -> int | None:
    wanted, top = body.take("logprobs", bool), body.take("top_logprobs", int)
    return top or 0 if wanted else None


def _decode_reasoning(body: Fields) -> Reasoning | None:
    """Returns what is said in OpenAI's `reasoning_effort`, OpenRouter's `reasoning` or Anthropic's `thinking`."""
    effort, budget, adaptive, show = body.take("reasoning_effort", str), None, False, None
    if (fields := body.object("reasoning")) is not None:
        effort = fields.take("effort", str) or effort
        budget = fields.take("max_tokens", int)
        show = "" if fields.take("exclude", bool) else None
        if fields.take("enabled", bool) is False:
            effort = "none"
        fields.rest_is_foreign()
    if body.take("include_reasoning", bool) is False:
        show = ""
    if (fields := body.object("thinking")) is not None:
        kind = fields.text("type")
        budget = fields.take("budget_tokens", int)
        adaptive = budget is None and kind in ("adaptive", "enabled")
        if kind == "disabled":
            effort = "none"
        fields.rest_is_foreign()
    if effort is None and budget is None and not adaptive and show is None:
        return None
    return Reasoning(effort=effort, budget_tokens=budget, adaptive=adaptive, show=show)


def encode_request(prompt: Prompt, outgoing: Outgoing) -> dict[str, Any]:
    """Returns the body that asks for `prompt`."""
    outgoing.check(prompt, TITLE)
    # Only OpenAI's own servers take this field, and only they know custom tools, `developer` and some newer fields.
    is_openai = outgoing.max_tokens_field == "max_completion_tokens"
    prompt = with_valid_ids(prompt if is_openai else without_custom_tools(prompt), TOOL_IDS)
    body: dict[str, Any] = {
        "model": outgoing.model,
        "messages": encode_messages(prompt.messages, outgoing, developer=is_openai),
    }
    bound = prompt.max_output_tokens if outgoing.max_output_tokens is None else outgoing.max_output_tokens
    if bound is not None:
        body[outgoing.max_tokens_field] = bound
    if prompt.tools:
        body["tools"] = encode_tools(prompt, outgoing)
        _set(body, tool_choice=encode_tool_choice(prompt), parallel_tool_calls=prompt.parallel_tool_calls)
    if prompt.format is not None:
        body["response_format"] = encode_format(prompt.format)
    _encode_settings(body, prompt, outgoing, is_openai=is_openai)
    if outgoing.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    for name in sorted(outgoing.drop & body.keys() - _NEVER_DROPPED):
        del body[name]
        outgoing.leave_out(name)
    return body


def _encode_settings(body: dict[str, Any], prompt: Prompt, outgoing: Outgoing, *, is_openai: bool) -> None:
    _set(
        body,
        temperature=prompt.temperature,
        top_p=prompt.top_p,
        seed=prompt.seed,
        presence_penalty=prompt.presence_penalty,
        frequency_penalty=prompt.frequency_penalty,
        reasoning_effort=_encode_effort(prompt.reasoning, outgoing),
        user=prompt.user or None,
    )
    if prompt.top_k is not None:
        outgoing.leave_out("top_k")
    if prompt.top_logprobs is not None:
        body["logprobs"] = True
        _set(body, top_logprobs=prompt.top_logprobs or None)
    if len(prompt.stop) > _MOST_STOPS:
        outgoing.refuse("stop", TITLE)
    elif prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.service_tier in _SERVICE_TIERS:
        body["service_tier"] = prompt.service_tier
    elif prompt.service_tier == "standard_only":
        body["service_tier"] = "default"
    elif prompt.service_tier:
        outgoing.leave_out("service_tier")
    for name, value in (("verbosity", prompt.verbosity), ("prompt_cache_key", prompt.cache_key or None)):
        if value is not None and is_openai:
            body[name] = value
        elif value is not None:
            outgoing.leave_out(name)


def _set(body: dict[str, Any], **values: Any) -> None:
    body.update({name: value for name, value in values.items() if value is not None})


def _encode_effort(reasoning: Reasoning | None, outgoing: Outgoing) -> str | None:
    if reasoning is None:
        return None
    if reasoning.show is not None:
        outgoing.leave_out("reasoning.show")
    if reasoning.effort is not None or reasoning.budget_tokens is None:
        return reasoning.effort
    return next((effort for most, effort in _EFFORT_BUDGETS if reasoning.budget_tokens <= most), "high")
