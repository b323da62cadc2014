"""Model picker: rules that choose the model for `auto` by facts of the request.

The first rule that holds decides. No I/O, no clock. Code is recognised by patterns, cheaply and in linear time; code
that is missed costs a worse pick, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from app.config.features import SmartConfig, SmartRule
from app.config.gateway import GatewayConfig
from app.config.serving import AUTO, can_serve, chat_models
from app.domain.chat import ChatRequest
from app.domain.generation import GenerationRequest
from app.domain.identity import Caller
from app.errors import Forbidden

# Of the users' messages, from the newest on: a long paste must not hold up the worker's other calls. It takes
# 0.35 ms for prose, and at the most 1.5.
_MAX_SCANNED_CHARACTERS = 8_192
_RESULT_ROLES = ("tool", "function")
_CODE_LINE = re.compile(
    r"""^[ \t]*+(?=[acdefilpsvACIST@#<)}\]])(?:
        (?:async[ ])?def[ ]\w+\( | class[ ]\w+[ ]?[(:{] | from[ ][\w.]+[ ]import[ ] | @\w+[(\n]
      | import[ ](?:[\w.]+(?:[ ]as[ ]\w+)?;?[ \t]*$ | [{*"'])
      | (?:export[ ])?(?:async[ ])?function[ ]?\*?[ ]?\w*\( | (?:export[ ])?(?:const|let|var)[ ][\w{}\[\], ]{1,80}=
      | (?:public|private|protected|static)[ ][\w<>\[\] ]{1,80}[({;=] | package[ ][\w.]++;?[ \t]*$
      | func[ ][\w(] | (?:pub[ ])?fn[ ]\w+[<(] | impl[ <] | \#include[ ]?[<"] | \#!/ | <\?php | </?(?:html|div|script)\b
      | (?:SELECT|select)[ ][^\n]{1,200}[ ](?:FROM|from)[ ] | (?:INSERT[ ]INTO|CREATE[ ]TABLE|ALTER[ ]TABLE)[ ]
      | Traceback[ ]\(most | [)}\]]{1,3};[ \t]*$ | diff[ ]--git[ ]
    )""",
    re.MULTILINE | re.VERBOSE,
)
_WORD = re.compile(r"[a-z+#]+")
_CODE_WORDS = frozenset(
    {
        "python",
        "javascript",
        "typescript",
        "golang",
        "kotlin",
        "c++",
        "c#",
        "sql",
        "bash",
        "regex",
        "regexp",
        "refactor",
        "refactoring",
        "debug",
        "debugging",
        "traceback",
        "stacktrace",
        "segfault",
        "codebase",
        "unittest",
        "pytest",
        "dockerfile",
        "compiler",
        "linter",
        "html",
        "css",
    }
)


class Pick(NamedTuple):
    """A model's alias, and the name of the rule that picked it (or `default`, or `named`: the caller's own)."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a request that rules compare. `has` holds only the kinds of content that some rule asks for."""

    prompt_tokens: int
    messages: int
    plan: str
    has: frozenset[str] = frozenset()
    prompt_characters: int = 0


def collect_facts(request: GenerationRequest, plan: str, kinds: frozenset[str]) -> Facts:
    """Returns the facts of the request of a key on `plan`; it is searched for these kinds of content alone."""
    has = frozenset(kind for kind in kinds if _DETECTORS[kind](request))
    characters = sum(map(len, _user_texts(request)))
    return Facts(request.estimate_prompt_tokens(), request.message_count, plan, has, characters)


def content_kinds(config: SmartConfig) -> frozenset[str]:
    """Returns the kinds of content that any rule asks for."""
    return frozenset(kind for rule in config.rules for kind in rule.has)


def active_rules(config: GatewayConfig) -> tuple[SmartRule, ...]:
    """Returns the rules whose model can be served."""
    return tuple(rule for rule in config.smart.rules if can_serve(config, rule.model))


def defaults(config: GatewayConfig) -> tuple[str, ...]:
    """Returns the models for requests for which no rule holds, best first: the first that the key may use is taken."""
    first = config.smart.default or config.default_model
    return chat_models(config, None if first == AUTO else first)


def pick(rules: tuple[SmartRule, ...], default: Pick | None, facts: Facts, caller: Caller) -> Pick:
    """Returns the pick of the first rule that holds and whose model the key may use, else `default`.

    Raises `Forbidden` when there is no default either.
    """
    for rule in rules:
        if caller.may_use(rule.model) and _holds(rule, facts):
            return Pick(rule.model, rule.name)
    if default is None:
        raise Forbidden("This API key may use none of the models that are picked for such a request.", param="model")
    return default


def offers_auto(config: GatewayConfig, caller: Caller) -> bool:
    """Returns whether `auto` is offered to this key: no configured model has the name, and it may use a default."""
    return AUTO not in config.models and any(caller.may_use(model) for model in defaults(config))


def _holds(rule: SmartRule, facts: Facts) -> bool:
    return (
        (not rule.plans or facts.plan in rule.plans)
        and (rule.min_prompt_tokens is None or facts.prompt_tokens >= rule.min_prompt_tokens)
        and (rule.max_prompt_tokens is None or facts.prompt_tokens <= rule.max_prompt_tokens)
        and (rule.min_prompt_characters is None or facts.prompt_characters >= rule.min_prompt_characters)
        and (rule.min_messages is None or facts.messages >= rule.min_messages)
        and (rule.max_messages is None or facts.messages <= rule.max_messages)
        and facts.has.issuperset(rule.has)
    )


def is_code(text: str) -> bool:
    """Returns whether `text` contains code, or words that are hardly ever used of anything else."""
    if "```" in text or _CODE_LINE.search(text):
        return True
    return not _CODE_WORDS.isdisjoint(_WORD.findall(text.lower()))


def offers_tools(request: GenerationRequest) -> bool:
    """Returns whether the request offers tools to the model, or holds results of tools."""
    fields = request.fields
    if _is_filled(fields.get("tools")) or _is_filled(fields.get("functions")):
        return True
    return isinstance(request, ChatRequest) and any(message.role in _RESULT_ROLES for message in request.messages)


def _has_code(request: GenerationRequest) -> bool:
    left = _MAX_SCANNED_CHARACTERS
    for text in reversed(_user_texts(request)):
        if is_code(text[:left]):
            return True
        left -= len(text)
        if left <= 0:
            return False
    return False


def _user_texts(request: GenerationRequest) -> list[str]:
    """Returns the users' texts, oldest first; of dialects other than chat, the texts of every role."""
    if not isinstance(request, ChatRequest):
        return request.texts
    return [text for message in request.messages if message.role == "user" for text in message.texts]


def _is_filled(value: msgspec.Raw | None) -> bool:
    """Returns whether the field is there and is neither null nor an empty list."""
    return value is not None and bytes(value)[:32].translate(None, b" \t\r\n") not in (b"null", b"[]")


_DETECTORS: dict[str, Callable[[GenerationRequest], bool]] = {
    "code": _has_code,
    "tools": offers_tools,
    "images": lambda request: request.images > 0,
}
