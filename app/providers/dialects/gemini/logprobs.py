"""Log probabilities: Gemini's `logprobsResult` read as OpenAI's objects of a token, and written from them."""

from __future__ import annotations

from typing import Any


def read_logprobs(result: Any) -> list[Any] | None:
    """Returns the chosen tokens, each with its alternatives; None if there are none."""
    if not isinstance(result, dict) or not isinstance(result.get("chosenCandidates"), list):
        return None
    tops = result.get("topCandidates")
    tops = tops if isinstance(tops, list) else []
    found = []
    for i, chosen in enumerate(result["chosenCandidates"]):
        if not isinstance(chosen, dict):
            continue
        top = tops[i].get("candidates") if i < len(tops) and isinstance(tops[i], dict) else None
        alternatives = [_token(each) for each in top or () if isinstance(each, dict)]
        found.append({**_token(chosen), "top_logprobs": alternatives})
    return found


def _token(candidate: dict[str, Any]) -> dict[str, Any]:
    token = candidate.get("token")
    token = token if isinstance(token, str) else ""
    value = candidate.get("logProbability")
    return {
        "token": token,
        "logprob": value if isinstance(value, int | float) else 0.0,
        "bytes": list(token.encode("utf-8", "replace")),
    }


def write_logprobs(tokens: list[Any]) -> dict[str, Any]:
    """Returns OpenAI's objects of a token as a `logprobsResult`."""
    objects = [each for each in tokens if isinstance(each, dict)]
    return {
        "chosenCandidates": [_candidate(each) for each in objects],
        "topCandidates": [
            {"candidates": [_candidate(top) for top in each.get("top_logprobs") or ()]} for each in objects
        ],
    }


def _candidate(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": token.get("token", ""), "logProbability": token.get("logprob", 0.0)}
