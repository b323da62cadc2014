"""Tool choice of the demo model: the tools it is made to call, and those that the user's words are about."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from app.providers.demo.vocabulary import COMMON_WORDS

_WORD = re.compile(r"[a-z]{3,}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_MAX_TOOLS = 128
_MAX_CALLS = 8
_MAX_READ_CHARS = 2_000


class Tool(msgspec.Struct, frozen=True):
    """A tool that the caller offers. `legacy`: it came in `functions`; `custom`: it takes a text, not JSON."""

    name: str
    description: str = ""
    parameters: Any = None
    legacy: bool = False
    custom: bool = False

    def relevance(self, words: set[str]) -> int:
        """Returns 10 for each of a message's words in the tool's name, and 1 for each in its description."""
        return 10 * len(words & _words(_CAMEL.sub(" ", self.name))) + len(words & _words(self.description))


def choose_tools(fields: dict[str, Any], message: str, called: set[str], *, answered: bool) -> list[Tool]:
    """Returns the tools to call, none for an answer in text.

    `called` are the names called before in this conversation; `answered`: the last message is a tool's result.
    """
    offered = [*_parse_tools(fields.get("tools"), legacy=False), *_parse_tools(fields.get("functions"), legacy=True)]
    mode, wanted = _parse_choice(fields)
    if wanted is not None:
        offered = [tool for tool in offered if tool.name in wanted]
    words = _words(message[:_MAX_READ_CHARS])
    relevant = sorted((tool for tool in offered if tool.relevance(words) > 1), key=lambda tool: -tool.relevance(words))
    if mode == "none" or (mode == "auto" and answered):
        return []
    if mode == "auto":
        several = fields.get("parallel_tool_calls") is not False and not any(tool.legacy for tool in relevant)
        named = [tool for tool in offered if tool.relevance(words) >= 10]
        return (named[:_MAX_CALLS] if several else []) or relevant[:1]
    # It must call one: rather one that it has not called yet.
    fresh = [tool for tool in (*relevant, *offered) if tool.name not in called]
    legacy = fields.get("tool_choice") is None
    return (fresh or offered)[:1] or [Tool(name, legacy=legacy) for name in (wanted or ())][:1]


def _parse_choice(fields: dict[str, Any]) -> tuple[str, list[str] | None]:
    """Returns the caller's choice: auto, none or required, and the names to choose from; None for all of them."""
    choice = fields.get("tool_choice")
    legacy = choice is None
    if legacy:
        choice = fields.get("function_call")
    if not isinstance(choice, dict):
        return (choice if choice in ("none", "required") else "auto"), None
    allowed = choice.get("allowed_tools")
    if isinstance(allowed, dict):
        given = allowed.get("tools")
        names = [_name(tool) for tool in (given if isinstance(given, list) else ())[:_MAX_TOOLS]]
        return ("required" if allowed.get("mode") == "required" else "auto"), [name for name in names if name]
    name = _name({"function": choice} if legacy else choice)
    return ("auto", None) if name is None else ("required", [name])


def _parse_tools(given: Any, *, legacy: bool) -> list[Tool]:
    tools = []
    for item in given[:_MAX_TOOLS] if isinstance(given, list) else ():
        item = {"function": item} if legacy else item
        name = _name(item)
        if name is None:
            continue
        custom = not isinstance(item.get("function"), dict)
        function = item["custom" if custom else "function"]
        description = function.get("description")
        tools.append(
            Tool(
                name,
                description if isinstance(description, str) else "",
                function.get("parameters"),
                legacy=legacy,
                custom=custom,
            )
        )
    return tools


def _name(tool: Any) -> str | None:
    if not isinstance(tool, dict):
        return None
    for kind in ("function", "custom"):
        of_kind = tool.get(kind)
        if isinstance(of_kind, dict):
            return name if isinstance(name := of_kind.get("name", ""), str) else None
    return None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text[:_MAX_READ_CHARS].lower())) - COMMON_WORDS
