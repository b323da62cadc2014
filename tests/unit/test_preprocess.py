"""Preprocessing of a call before its admission: the model in place of `auto`, the shorter conversation, the notes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.config.gateway import GatewayConfig
from app.domain.chat import ChatRequest
from app.domain.identity import Caller
from app.errors import Forbidden, InvalidRequest, ModelNotFound
from app.gateway.call import CallContext, notes_of
from app.gateway.preprocess import Preprocessor
from app.gateway.router import Router
from app.telemetry.metrics import Metrics
from tests.support.calls import Clock, FakeProvider

ANYBODY = Caller("key_1", "test")
TALK = [{"role": "user", "content": f"question {number}"} for number in range(5)]
CODE = [{"role": "user", "content": "```\nprint(1)\n```"}]
RULES = {
    "smart": {
        "rules": [
            {"name": "code", "has": ["code"], "model": "coder"},
            {"name": "paid", "plans": ["paid"], "model": "large"},
        ]
    }
}
TRIMS = {"optimizer": {"enabled": True, "keep_messages": 2}}


def preprocessor_with(
    more: dict[str, Any] | None = None, models: tuple[str, ...] = ("small", "coder", "large")
) -> Preprocessor:
    config = GatewayConfig.model_validate(
        {
            "providers": {"demo": {"kind": "demo"}},
            "plans": {"paid": {}},
            "models": {name: {"targets": [{"provider": "demo"}]} for name in models},
            **(more or {}),
        }
    )
    vendors = {"demo": FakeProvider("demo", Clock(0))}
    return Preprocessor(config=config, router=Router(config=config, providers=vendors, metrics=Metrics(config=config)))


def request(model: str = "auto", messages: Any = None) -> ChatRequest:
    return ChatRequest.parse(json.dumps({"model": model, "messages": messages or TALK[:1]}).encode())


def preprocessed(
    found: Preprocessor, asked: ChatRequest, caller: Caller = ANYBODY, **context: Any
) -> tuple[str, tuple[tuple[str, str], ...], ChatRequest]:
    changed, told = found.preprocess(caller, asked, CallContext("req_1", "call_1", **context))
    assert json.loads(changed.raw)["model"] == changed.model, "what is sent is what is priced"
    assert isinstance(changed, ChatRequest)
    return changed.model, told.notes, changed


def test_a_call_that_names_its_model_stays_as_it_is() -> None:
    asked, context = request("small", CODE), CallContext("req_1", "call_1")
    assert preprocessor_with(RULES).preprocess(ANYBODY, asked, context) == (asked, context)
    assert preprocessor_with(RULES).preprocess(ANYBODY, asked, context)[0] is asked


def test_auto_becomes_what_the_first_rule_that_holds_says_or_the_default() -> None:
    found = preprocessor_with(RULES)
    assert preprocessed(found, request(messages=CODE))[:2] == ("coder", (("route", "code"),))
    assert preprocessed(found, request(), Caller("k", "t", plan="paid"))[:2] == ("large", (("route", "paid"),))
    assert preprocessed(found, request())[:2] == ("small", (("route", "default"),))
    assert preprocessed(preprocessor_with({"smart": {"default": "large"}}), request())[0] == "large"


def test_chat_smart_picks_whatever_is_named_and_falls_back_to_that() -> None:
    found = preprocessor_with(RULES)
    assert preprocessed(found, request("large", CODE), smart=True)[:2] == ("coder", (("route", "code"),))
    assert preprocessed(found, request("large"), smart=True)[:2] == ("large", (("route", "named"),))
    with pytest.raises(ModelNotFound):
        preprocessed(found, request("nonsense", CODE), smart=True)


def test_nobody_is_steered_to_a_model_that_the_key_may_not_use() -> None:
    found = preprocessor_with(RULES)
    only_small = Caller("k", "t", models=frozenset({"small"}))
    assert preprocessed(found, request(messages=CODE), only_small)[0] == "small"
    assert preprocessed(found, request(), Caller("k", "t", models=frozenset({"large", "coder"})))[0] == "coder"
    with pytest.raises(Forbidden):
        preprocessed(found, request(), Caller("k", "t", models=frozenset({"removed"})))


def test_a_model_of_the_name_auto_is_that_model() -> None:
    found = preprocessor_with(RULES, models=("small", "coder", "large", "auto"))
    assert preprocessed(found, request(messages=CODE))[:2] == ("auto", ())
    assert preprocessed(found, request("auto", CODE), smart=True)[0] == "coder"


def test_a_long_conversation_is_trimmed_whichever_model_answers() -> None:
    model, notes, changed = preprocessed(preprocessor_with({**RULES, **TRIMS}), request(messages=TALK))
    assert (model, notes) == ("small", (("route", "default"), ("optimized", "trimmed")))
    assert [message.texts for message in changed.messages] == [["question 3"], ["question 4"]]
    model, notes, changed = preprocessed(preprocessor_with(TRIMS), request("large", TALK))
    assert (model, notes, len(changed.messages)) == ("large", (("optimized", "trimmed"),), 2)
    assert preprocessed(preprocessor_with(TRIMS), request("large", TALK[:2]))[1] == ()
    assert len(preprocessed(preprocessor_with(), request("large", TALK))[2].messages) == 5, "off unless it is asked for"


def test_notes_come_back_from_the_ledgers_tags() -> None:
    context = CallContext("req_1", "call_1", notes=(("route", "code"), ("optimized", "trimmed,capped")))
    assert context.tags == "route=code optimized=trimmed,capped"
    assert notes_of(context.tags) == context.notes
    assert (CallContext("req_1", "call_1").tags, notes_of("")) == ("", ())


def without_model(**more: Any) -> ChatRequest:
    return ChatRequest.parse(json.dumps({"messages": TALK[:1], **more}).encode())


def test_a_call_that_names_no_model_gets_the_default_as_if_it_had_named_it() -> None:
    model, notes, changed = preprocessed(preprocessor_with(RULES), without_model())
    assert (model, notes) == ("small", ())
    named = preprocessed(preprocessor_with(RULES), request("small"))[2]
    assert {name: bytes(value) for name, value in changed.fields.items()} == {
        name: bytes(value) for name, value in named.fields.items()
    }
    assert preprocessed(preprocessor_with({"default_model": "large"}), without_model(model=None))[0] == "large"


def test_the_default_may_be_that_the_gateway_picks() -> None:
    found = preprocessor_with({**RULES, "default_model": "auto"})
    coding = ChatRequest.parse(json.dumps({"messages": CODE}).encode())
    assert preprocessed(found, coding)[:2] == ("coder", (("route", "code"),))
    only_large = Caller("k", "t", models=frozenset({"large"}))
    assert preprocessed(found, coding, only_large)[:2] == ("large", ()), "a key that may not use auto"


def test_the_default_is_one_that_the_key_may_use() -> None:
    found = preprocessor_with({"default_model": "small"})
    assert preprocessed(found, without_model(), Caller("k", "t", models=frozenset({"large", "coder"})))[0] == "coder"
    with pytest.raises(InvalidRequest) as error:
        preprocessed(found, without_model(), Caller("k", "t", models=frozenset({"removed"})))
    assert error.value.param == "model"


def test_chat_smart_without_a_model_is_auto() -> None:
    assert preprocessed(preprocessor_with(RULES), without_model(), smart=True)[:2] == ("small", (("route", "default"),))
    plain = preprocessor_with({**RULES, "default_model": "large"})
    assert preprocessed(plain, without_model(), smart=True)[:2] == ("large", (("route", "default"),))


def test_rules_and_defaults_pass_over_what_cannot_be_served() -> None:
    providers = {"demo": {"kind": "demo"}, "up": {"kind": "openai", "base_url": "http://127.0.0.1/v1", "api_key": None}}
    models = {"coder": {"targets": ["up"]}, "large": {"targets": ["up"]}, "small": {"targets": ["demo"]}}
    given = {"providers": providers, "models": models, "plans": {"paid": {}}, **RULES, "default_model": "large"}
    config = GatewayConfig.model_validate({**given, "smart": {**RULES["smart"], "default": "large"}})
    vendors = {name: FakeProvider(name, Clock(0)) for name in providers}
    found = Preprocessor(config=config, router=Router(config=config, providers=vendors, metrics=Metrics(config=config)))
    assert preprocessed(found, without_model())[0] == "small"
    assert preprocessed(found, request(messages=CODE))[:2] == ("small", (("route", "default"),))
    assert preprocessed(found, request(messages=CODE), Caller("k", "t", plan="paid"))[0] == "small"
    only_large = Caller("k", "t", models=frozenset({"large"}))
    assert preprocessed(found, without_model(), only_large)[0] == "large", "the call's error says what is missing"
