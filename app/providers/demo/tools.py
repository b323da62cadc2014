"""Which tools the demo model calls: those it is made to call, and those that the user's words speak of."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_WORD = re.compile(r"[a-z]{3,}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_COMMON = frozenset(
    {
        "about",
        "and",
        "any",
        "are",
        "can",
        "for",
        "from",
        "get",
        "give",
        "has",
        "have",
        "into",
        "list",
        "not",
        "one",
        "out",
        "set",
        "tell",
        "that",
        "the",
        "their",
        "them",
        "then",
        "this",
        "tool",
        "use",
        "user",
        "when",
        "which",
        "with",
        "you",
        "your",
    }
)
_MOST_TOOLS = 128
_MOST_CALLS = 8
_MOST_READ_CHARS = 2_000


class Tool(msgspec.Struct, frozen=True):
    """A function that the caller offers; `legacy` as in `functions`, `custom`: it takes a text."""

    name: str
    description: str = ""
    parameters: Any = None
    legacy: bool = False
    custom: bool = False

    def speaks_of(self, words: set[str]) -> int:
        """How many of a message's words its name has, and (less) its description."""
        return 10 * len(words & _words(_CAMEL.sub(" ", self.name))) + len(words & _words(self.description))


def chosen(fields: dict[str, Any], message: str, called: set[str], *, answered: bool) -> list[Tool]:
    """The tools to call, none for an answer in text.

    `called` was called before in this conversation; `answered`: the last message is a tool's result.
    """
    offered = [*_offered(fields.get("tools"), legacy=False), *_offered(fields.get("functions"), legacy=True)]
    mode, wanted = _choice(fields)
    if wanted is not None:
        offered = [tool for tool in offered if tool.name in wanted]
    words = _words(message[:_MOST_READ_CHARS])
    liked = sorted((tool for tool in offered if tool.speaks_of(words) > 1), key=lambda tool: -tool.speaks_of(words))
    if mode == "none" or (mode == "auto" and answered):
        return []
    if mode == "auto":
        several = fields.get("parallel_tool_calls") is not False and not any(tool.legacy for tool in liked)
        named = [tool for tool in offered if tool.speaks_of(words) >= 10]
        return (named[:_MOST_CALLS] if several else []) or liked[:1]
    # It must call one: rather one that it has not called yet.
    fresh = [tool for tool in (*liked, *offered) if tool.name not in called]
    legacy = fields.get("tool_choice") is None
    return (fresh or offered)[:1] or [Tool(name, legacy=legacy) for name in (wanted or ())][:1]


def _choice(fields: dict[str, Any]) -> tuple[str, list[str] | None]:
    """What the caller says of calling tools: auto, none or required, and among which; None: all of them."""
    choice = fields.get("tool_choice")
    legacy = choice is None
    if legacy:
        choice = fields.get("function_call")
    if not isinstance(choice, dict):
        return (choice if choice in ("none", "required") else "auto"), None
    allowed = choice.get("allowed_tools")
    if isinstance(allowed, dict):
        given = allowed.get("tools")
        names = [_name(tool) for tool in (given if isinstance(given, list) else ())[:_MOST_TOOLS]]
        return ("required" if allowed.get("mode") == "required" else "auto"), [name for name in names if name]
    name = _name({"function": choice} if legacy else choice)
    return ("auto", None) if name is None else ("required", [name])


def _offered(given: Any, *, legacy: bool) -> list[Tool]:
    tools = []
    for item in given[:_MOST_TOOLS] if isinstance(given, list) else ():
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
    return set(_WORD.findall(text[:_MOST_READ_CHARS].lower())) - _COMMON
