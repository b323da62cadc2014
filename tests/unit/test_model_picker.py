"""From a request to a model: what is seen in the request, which rule holds, and what the key may use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.config.features import SmartRule
from app.config.gateway import GatewayConfig
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import Forbidden
from app.gateway import model_picker
from app.gateway.model_picker import Facts, Pick

EVERYTHING = frozenset({"code", "tools", "images"})
ANYONE = Caller("key_1", "test")
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
OTHERWISE = Pick("small", "default")


def request_of(*contents: Any, **more: Any) -> ChatRequest:
    """A request whose users wrote `contents`."""
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatRequest.parse(json.dumps({"model": "auto", "messages": messages, **more}).encode())


def rules(*given: dict[str, Any]) -> tuple[SmartRule, ...]:
    return tuple(SmartRule.model_validate(rule) for rule in given)


@pytest.mark.parametrize(
    "text",
    [
        "What does this do?\n```\nx\n```",
        "def total(rows):\n    return sum(rows)",
        "    async def run(self):",
        "class Reader(Protocol):",
        "from os import path",
        "import numpy as np\n",
        'import "fmt"',
        "const rows = await read();",
        "export function main() {",
        "public static void main(String[] args) {",
        "pub fn parse(input: &str)",
        "func main() {",
        "#include <stdio.h>",
        "#!/bin/sh",
        "<?php echo 1;",
        "<script src=x>",
        "SELECT name FROM users",
        "Traceback (most recent call last):\n  File",
        "  });",
        "Write a Python script, please",
        "why is my SQL slow?",
        "Refactor it.",
        "Erkläre mir diese Regex",
    ],
)
def test_code_is_seen(text: str) -> None:
    assert model_picker.is_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello, how are you?",
        "Import duties rise.\nFrom now on, the class of 1984 meets in public places.",
        "Let it be; the function of a penstock is to guide water.",
        "import duties are a tax\nfrom Ulm to Bonn\nclass reunion",
        "Select a few books from the list.",
        "package holidays in Greece",
        "I debugged nothing, and went to Pythonesque lengths.",
        "Smile :) ;-)",
    ],
)
def test_prose_is_not_code(text: str) -> None:
    assert not model_picker.is_code(text)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (request_of("Hello"), set()),
        (request_of("x" * 100, "```py```", "and why?"), {"code"}),
        (request_of([{"type": "text", "text": "What is it?"}, PICTURE]), {"images"}),
        (request_of([{"type": "text", "text": "import os"}, PICTURE], tools=[TOOL]), {"code", "images", "tools"}),
        (request_of("Hello", tools=[]), set()),
        (request_of("Hello", tools=None, functions=[]), set()),
        (request_of("Hello", functions=[{"name": "f"}]), {"tools"}),
        (ChatRequest.parse(b'{"model":"auto","tools":[ \n ],"messages":[{"role":"user"}]}'), set()),
        (ChatRequest.parse(b'{"model":"a","messages":[{"role":"tool","content":"7"}]}'), {"tools"}),
        (ChatRequest.parse(b'{"model":"a","messages":[{"role":"system","content":"```"}]}'), set()),
    ],
)
def test_what_a_request_has(request_: ChatRequest, expected: set[str]) -> None:
    assert model_picker.collect_facts(request_, "default", EVERYTHING).has == expected


def test_only_what_rules_ask_for_is_looked_up() -> None:
    assert model_picker.collect_facts(request_of("import os", tools=[TOOL]), "default", frozenset({"tools"})).has == {
        "tools"
    }


def test_the_newest_of_a_long_text_is_what_is_read() -> None:
    prose = "word " * 4000
    assert model_picker.collect_facts(request_of("import os", prose), "default", EVERYTHING).has == set()
    assert model_picker.collect_facts(request_of(prose, "import os"), "default", EVERYTHING).has == {"code"}
    assert model_picker.collect_facts(request_of("import os", "short"), "default", EVERYTHING).has == {"code"}


def test_a_prompts_characters_are_those_that_users_wrote() -> None:
    parts = [{"type": "text", "text": "Größe?"}, PICTURE]
    asked = request_of("Hello", parts)
    system = {"role": "system", "content": "Be kind."}
    told = ChatRequest.parse(json.dumps({"messages": [system, {"role": "user", "content": "Hello"}]}).encode())
    assert model_picker.collect_facts(asked, "free", frozenset()).prompt_characters == 11
    assert model_picker.collect_facts(told, "free", frozenset()).prompt_characters == 5


def test_a_pictures_bytes_are_not_its_tokens() -> None:
    assert model_picker.collect_facts(request_of([PICTURE]), "free", frozenset()).prompt_tokens < 1100


CODE = Facts(10, 1, "free", frozenset({"code"}))
LONG = Facts(9000, 40, "paid")


@pytest.mark.parametrize(
    ("rule", "facts", "holds"),
    [
        ({}, CODE, True),
        ({"has": ["code"]}, CODE, True),
        ({"has": ["code", "tools"]}, CODE, False),
        ({"has": ["code"]}, LONG, False),
        ({"min_prompt_tokens": 9000}, LONG, True),
        ({"min_prompt_tokens": 9001}, LONG, False),
        ({"max_prompt_tokens": 9000}, LONG, True),
        ({"max_prompt_tokens": 8999}, LONG, False),
        ({"min_prompt_characters": 1001}, Facts(9, 1, "paid", prompt_characters=1001), True),
        ({"min_prompt_characters": 1001}, Facts(9, 1, "paid", prompt_characters=1000), False),
        ({"min_messages": 40}, LONG, True),
        ({"min_messages": 41}, LONG, False),
        ({"max_messages": 40}, LONG, True),
        ({"max_messages": 39}, LONG, False),
        ({"plans": ["paid", "gold"]}, LONG, True),
        ({"plans": ["paid", "gold"]}, CODE, False),
        ({"plans": ["paid"], "min_prompt_tokens": 9001}, LONG, False),
        ({"plans": ["free"], "has": ["code"], "max_messages": 1, "max_prompt_tokens": 10}, CODE, True),
    ],
)
def test_a_rule_holds_when_all_its_conditions_do(rule: dict[str, Any], facts: Facts, holds: bool) -> None:
    picked = model_picker.pick(rules({"name": "it", "model": "big", **rule}), OTHERWISE, facts, ANYONE)
    assert picked == (Pick("big", "it") if holds else OTHERWISE)


def test_the_first_rule_that_holds_decides() -> None:
    given = rules(
        {"name": "tools", "model": "a", "has": ["tools"]},
        {"name": "code", "model": "b", "has": ["code"]},
        {"name": "any", "model": "c"},
    )
    assert model_picker.pick(given, OTHERWISE, CODE, ANYONE) == ("b", "code")
    assert model_picker.pick(given, OTHERWISE, LONG, ANYONE) == ("c", "any")
    assert model_picker.pick(given[::-1], OTHERWISE, CODE, ANYONE) == ("c", "any")


def test_rules_are_skipped_whose_model_the_key_may_not_use() -> None:
    given = rules({"name": "code", "model": "b", "has": ["code"]}, {"name": "any", "model": "c"})

    def may_use(*models: str) -> Caller:
        return Caller("key_1", "test", models=frozenset(models))

    assert model_picker.pick(given, OTHERWISE, CODE, may_use("c", "small")) == ("c", "any")
    assert model_picker.pick(given, OTHERWISE, CODE, may_use("small")) == OTHERWISE
    with pytest.raises(Forbidden) as error:
        model_picker.pick(given, None, CODE, may_use("d"))
    assert error.value.param == "model"


def config(models: tuple[str, ...] = ("small", "big"), **given: Any) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "providers": {"demo": {"kind": "demo"}},
            "plans": {"paid": {}},
            "smart": given,
            "models": {name: {"targets": [{"provider": "demo"}]} for name in models},
        }
    )


def test_without_rules_it_is_the_first_model_of_the_file() -> None:
    assert model_picker.defaults(config(("b", "a"))) == ("b", "a")
    assert model_picker.defaults(config(("b", "a", "c"), default="c")) == ("c", "b", "a")


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        (ANYONE, True),
        (Caller("k", "t", models=frozenset({"small"})), True),
        (Caller("k", "t", models=frozenset({"big"})), True),
        (Caller("k", "t", models=frozenset({"removed-from-the-file"})), False),
        (Caller("k", "t", models=frozenset()), False),
    ],
)
def test_auto_is_open_to_keys_for_which_something_can_be_picked(caller: Caller, expected: bool) -> None:
    rule = {"name": "paid", "model": "big", "plans": ["paid"], "has": ["code"]}
    assert model_picker.offers_auto(config(rules=[rule]), caller) is expected


def test_a_model_of_that_name_is_no_pick() -> None:
    assert not model_picker.offers_auto(config(("small", "auto")), ANYONE)
