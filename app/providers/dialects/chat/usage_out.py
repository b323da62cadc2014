"""Usage as OpenAI writes it in a completion."""

from __future__ import annotations

from typing import Any

from app.domain.usage import Usage


def encode_usage(usage: Usage) -> dict[str, Any]:
    """Returns the object `usage`. Searches stand where OpenRouter writes them: OpenAI has no field for them."""
    prompt: dict[str, int] = {"cached_tokens": usage.cached_tokens}
    completion: dict[str, int] = {"reasoning_tokens": usage.reasoning_tokens}
    encoded: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }
    details = usage.details
    if details is not None:
        _set(
            prompt,
            cache_write_tokens=details.cache_write_tokens,
            audio_tokens=details.audio_prompt_tokens,
            image_tokens=details.image_prompt_tokens,
            video_tokens=details.video_prompt_tokens,
        )
        _set(completion, audio_tokens=details.audio_completion_tokens, image_tokens=details.image_completion_tokens)
        if details.searches:
            encoded["server_tool_use"] = {"web_search_requests": details.searches}
    return encoded


def _set(target: dict[str, int], **counts: int) -> None:
    target.update({name: count for name, count in counts.items() if count})
