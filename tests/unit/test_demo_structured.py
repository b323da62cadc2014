"""The built-in model obeys: JSON that fits the caller's schema, tools called with arguments that fit theirs."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.errors import UpstreamRejected
from app.providers.demo.json_generator import generate_json
from app.providers.demo.numbers import Unsatisfiable
from tests.support.providers import chat_call, demo, payloads, text_of

TREE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
    },
    "required": ["value", "left", "children"],
    "additionalProperties": False,
}
LIKED = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def objects(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def value_of(schema: Any, message: str = "Hello") -> Any:
    return generate_json(schema, message, pause=lambda: None)


def function(name: str, parameters: Any = None, description: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def message_of(**fields: Any) -> dict[str, Any]:
    """The message of the first choice; a stream's, put together, must be the same."""
    completion = json.loads(demo().chat(chat_call(**fields)).body)["choices"][0]
    message: dict[str, Any] = completion["message"]
    text, finished = "", None
    calls: dict[int, Any] = {}
    for chunk in payloads(list(demo().stream(chat_call(stream=True, **fields)))):
        choice = chunk["choices"][0]
        finished = choice["finish_reason"] or finished
        text += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls", ()):
            made = calls.setdefault(call.pop("index"), call)
            if made is not call:
                made["function"]["arguments"] += call["function"]["arguments"]
    assert text == (message["content"] or "")
    assert [calls[i] for i in sorted(calls)] == message.get("tool_calls", [])
    assert finished == completion["finish_reason"]
    return message


def calls_of(**fields: Any) -> list[tuple[str, Any]]:
    calls = message_of(**fields).get("tool_calls", ())
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 40, "maxLength": 41},
        {"type": "string", "pattern": r"^[A-Z]{3}-\d{4}(foo|bar)\w*$", "minLength": 20},
        {"type": "string", "pattern": "^[^a-z]+$"},
        *({"type": "string", "format": name} for name in ("date", "date-time", "time", "email", "uuid", "uri", "ipv4")),
        {"type": "integer", "minimum": 7, "maximum": 9},
        {"type": "integer", "exclusiveMinimum": 7, "multipleOf": 5},
        {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
        {"type": "number", "maximum": -3.5},
        {"type": "integer", "maximum": -3, "multipleOf": 2},
        {"type": "number", "multipleOf": 0.25, "minimum": 10.1},
        {"enum": ["red", "green"]},
        {"const": {"a": [1]}},
        {"type": "boolean"},
        {"type": "null"},
        True,
        {},
        {"type": ["string", "null"], "minLength": 1},
        {"type": "string", "nullable": True},
        {"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"type": "string", "format": "email"}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
        {"type": "array", "maxItems": 0},
        {"minProperties": 2},
        {"type": "object", "maxProperties": 0},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        objects(a=objects(b=objects(c={"type": "array", "items": objects(d={"type": "string"}), "minItems": 2}))),
        {"allOf": [objects(a={"type": "integer"}) | {"additionalProperties": True}, LIKED]},
        {"allOf": [{"type": "number", "minimum": 3}, {"type": "integer", "maximum": 4}]},
        {"oneOf": [objects(kind={"const": "cat"}, lives={"type": "integer"}), objects(kind={"const": "dog"})]},
        {"anyOf": [{"type": "string", "minLength": 10**9}, {"type": "integer"}]},
        {"anyOf": [False, {"type": "integer"}], "minimum": 12},
        {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
        {**TREE, "$defs": {"tree": TREE}},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": LIKED}},
        objects(**{f"p{i}": {"type": "string"} for i in range(5_000)}),
        {"properties": {"a": {"type": "integer"}}, "dependentRequired": {"a": ["b"]}, "required": ["a"]},
        {"if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"required": ["b"]}, "else": False},
        {"type": "object", "properties": {"a": {"not": {"enum": ["x"]}, "enum": ["x", "y"]}}, "required": ["a"]},
        {"type": "integer", "default": 3, "minimum": 5},
        {"type": "string", "examples": [1, "x"], "minLength": 2},
    ],
)
def test_a_value_fits_its_schema(schema: Any) -> None:
    made = value_of(schema, "Please add 12 and 30 for Ann in Paris.")
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(made)


def test_values_come_from_the_message_where_that_reads_well() -> None:
    person = objects(name={"type": "string"}, age={"type": "integer"}, email={"type": "string", "format": "email"})
    assert value_of(person, "Jason Liu is 25 years old, jason@example.org.") == {
        "name": "Jason Liu",
        "age": 25,
        "email": "jason@example.org",
    }
    event = objects(day={"type": "string"}, participants={"type": "array", "items": {"type": "string"}})
    assert value_of(event, "Alice and Bob go to a fair on Friday.") == {
        "day": "Friday",
        "participants": ["Alice", "Bob"],
    }
    assert value_of(objects(a={"type": "number"}, b={"type": "number"}), "Add 2 and 3.5") == {"a": 2, "b": 3.5}
    mood = {"enum": ["neutral", "happy", "sad"]}
    assert value_of(objects(mood=mood, query={"type": "string"}), "I am so Happy!") == {
        "mood": "happy",
        "query": "I am so Happy!",
    }


def test_what_the_schema_names_itself_is_preferred() -> None:
    given = {"type": "string", "examples": ["Ulm"], "default": "Bonn"}
    assert value_of(objects(city=given, town={"type": "string", "default": "Bonn"}), "In Paris") == {
        "city": "Ulm",
        "town": "Bonn",
    }


def test_what_need_not_be_there_is_left_out_unless_nothing_need_be() -> None:
    both = {"a": {"type": "integer"}, "b": {"type": "integer"}}
    assert value_of({"type": "object", "properties": both, "required": ["a"]}).keys() == {"a"}
    assert value_of({"type": "object", "properties": both}).keys() == {"a", "b"}
    assert value_of({"type": "object", "properties": both, "required": []}).keys() == {"a", "b"}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        objects(again={"$ref": "#"}),
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/s"},
        {"enum": []},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "integer", "minimum": 10**30},
        {"type": "string", "minLength": 10**12},
        {"type": "array", "minItems": 10**9},
        {"minProperties": 10**9},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "cow"},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "uniqueItems": True},
        {"allOf": [{"const": 1}, {"const": 2}]},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ],
)
def test_a_schema_that_nothing_fits_is_refused_by_name(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        value_of(schema)
    with pytest.raises(UpstreamRejected) as caught:
        demo().stream(
            chat_call(stream=True, tools=[function("f", {"not a": 1, "allOf": [schema]})], tool_choice="required")
        )
    assert caught.value.param == "tools"


def hostile() -> dict[str, Any]:
    doubling = {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)} | {"40": False}
    merging = {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)} | {"40": LIKED}
    deep: Any = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep, "minItems": 3}
    many = {f"p{i}": {"type": "string"} for i in range(50_000)}
    return {
        "branches that double": {"$ref": "#/$defs/0", "$defs": doubling},
        "parts that double": {"$ref": "#/$defs/0", "$defs": merging},
        "references to itself": objects(**{f"a{i}": {"anyOf": [{"$ref": "#"}] * 9} for i in range(10)}),
        "too deep": deep,
        "too many properties": objects(**many),
        "many properties, many branches": {"properties": many, "anyOf": [{"required": ["q"], "not": {}}] * 2_000},
        "many branches": {"anyOf": [{"type": "object", "required": ["a"], "properties": {"a": False}}] * 100_000},
        "long lists": {"allOf": [{"enum": list(range(50_000))}, {"enum": list(range(50_000, 99_000))}]},
        "a large constant": {"type": "array", "items": {"const": "x" * 100_000}, "minItems": 1_000},
        "a pattern that backtracks": {"type": "string", "pattern": "(a+)+" * 90 + "b", "minLength": 9_000},
        "a pattern that multiplies": {"type": "string", "pattern": "((((a{999}){999}){999}){999})"},
        "a pattern of nothing": {"type": "string", "pattern": "(((){60000}){60000})"},
        "a pattern that repeats itself": {"type": "string", "pattern": r"(a{1000})(\1{100})(\2{100})(\3{100})"},
        "a pattern that nests": {"type": "string", "pattern": "(" * 249 + ")" * 249},
        "nothing of the right kind": {
            "type": ["object", 3],
            "required": [1, {}],
            "properties": [1],
            "$ref": 5,
            "allOf": 3,
            "anyOf": {},
            "enum": 5,
            "minProperties": "x",
            "additionalProperties": 7,
            "dependentRequired": {"a": 5},
            "examples": 5,
        },
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_schema_holds_nobody_up(name: str) -> None:
    schema = hostile()[name]
    pauses: list[float] = [time.process_time()]
    began = time.process_time()
    try:
        made = generate_json(schema, "Hello", pause=lambda: pauses.append(time.process_time()))
    except Unsatisfiable:
        made = None
    pauses.append(time.process_time())
    # 0.3 s at the most when measured, 0.13 between two pauses: other calls of the worker run in them.
    assert time.process_time() - began < 3
    assert max(after - before for before, after in pairwise(pauses)) < 1.5
    assert len(json.dumps(made)) < 400_000


def test_a_json_object_is_one() -> None:
    made = json.loads(message_of(response_format={"type": "json_object"}, prompt='Say "hi", in JSON')["content"])
    assert made["you_said"] == 'Say "hi", in JSON'


def test_a_schema_in_the_prompt_is_obeyed() -> None:
    example = '{"properties": {"foo": {"type": "string"}}, "required": ["foo"]}'
    prompt = f"JSON, for {example} such as {{foo: 1}}, and here for\n{json.dumps(LIKED, indent=2)}\n. Where is Paris?"
    assert json.loads(message_of(response_format={"type": "json_object"}, prompt=prompt)["content"]).keys() == {"city"}
    fenced = message_of(prompt=prompt)["content"]
    assert json.loads(fenced.removeprefix("```json\n").removesuffix("\n```")).keys() == {"city"}


def test_an_answer_fits_the_response_format() -> None:
    schema = objects(city={"type": "string"}, steps={"type": "array", "items": objects(n={"type": "integer"})})
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert json.loads(message_of(response_format=wanted, prompt="Is Ulm nice?")["content"]) == {
        "city": "Ulm",
        "steps": [{"n": 1}],
    }
    assert len(json.loads(demo().chat(chat_call(response_format=wanted, n=3)).body)["choices"]) == 3
    cut = json.loads(demo().chat(chat_call(response_format=wanted, max_tokens=2)).body)["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ('{"city":"sample ', "length")


@pytest.mark.parametrize(
    "wanted",
    [
        5,
        {"type": "xml"},
        {"type": ["text"]},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": 5},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": objects(a=False)}},
    ],
)
def test_a_response_format_that_it_cannot_obey_is_refused_by_name(wanted: Any) -> None:
    for ask in (demo().chat, demo().stream):
        with pytest.raises(UpstreamRejected) as caught:
            ask(chat_call(response_format=wanted))
        assert caught.value.param == "response_format"


def test_a_large_answer_streams_in_few_chunks() -> None:
    schema = objects(**{f"p{i}": {"type": "string"} for i in range(2_000)})
    stream = demo().stream(
        chat_call(stream=True, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    )
    assert len(json.loads(text_of(list(stream)))) == 2_000
    assert stream.chunks <= 200


WEATHER = function("get_weather", LIKED, "Get the current weather for a city")
MAIL = function("send_email", objects(to={"type": "string", "format": "email"}, body={"type": "string"}))


def test_a_tool_is_called_with_what_its_parameters_ask_for() -> None:
    assert calls_of(tools=[MAIL, WEATHER], prompt="What is the weather in Paris?") == [
        ("get_weather", {"city": "Paris"})
    ]
    forced = {"type": "function", "function": {"name": "send_email"}}
    [(name, arguments)] = calls_of(tools=[WEATHER, MAIL], tool_choice=forced, prompt="Tell Ann that I am late.")
    assert (name, arguments) == ("send_email", {"to": "demo@example.com", "body": "Tell Ann that I am late."})


@pytest.mark.parametrize(
    ("more", "called"),
    [
        ({}, ["get_weather", "send_email"]),
        ({"parallel_tool_calls": False}, ["send_email"]),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": "required"}, ["send_email"]),
        ({"prompt": "Good day!"}, []),
        ({"prompt": "Good morning!", "tool_choice": "required"}, ["get_weather"]),
        ({"tool_choice": {"allowed_tools": {"mode": "required", "tools": [WEATHER]}}}, ["get_weather"]),
        ({"tool_choice": {"allowed_tools": {"mode": "auto", "tools": []}}}, []),
    ],
)
def test_it_calls_the_tools_that_a_message_speaks_of(more: dict[str, Any], called: list[str]) -> None:
    fields = {"tools": [WEATHER, MAIL], "prompt": "Send an email about the weather in Ulm.", **more}
    assert [name for name, _ in calls_of(**fields)] == called


def conversation(*more: dict[str, Any], **fields: Any) -> bytes:
    called = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny, 21 degrees"},
        *more,
    ]
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def test_it_answers_with_the_tools_result_rather_than_calling_again() -> None:
    message = message_of_body(conversation(tools=[WEATHER, MAIL]))
    assert message["content"] == "This is Penstock's offline demo model. The tool returned: Sunny, 21 degrees"
    assert "tool_calls" not in message
    again = message_of_body(conversation({"role": "user", "content": "And the weather in Ulm?"}, tools=[WEATHER]))
    assert json.loads(again["tool_calls"][0]["function"]["arguments"]) == {"city": "Ulm"}


def test_made_to_call_a_tool_it_calls_one_that_it_has_not_called_yet() -> None:
    """As agents have it whose last step is a tool, too."""
    final = function("final_result", objects(answer={"type": "string"}))
    message = message_of_body(conversation(tools=[WEATHER, final], tool_choice="required"))
    assert message["tool_calls"][0]["function"]["name"] == "final_result"


@pytest.mark.parametrize("called", [5, {}, [5], [{"function": 5}], [{"function": {"name": []}}], None])
def test_calls_of_no_shape_in_a_conversation_do_not_break_it(called: Any) -> None:
    messages = [{"role": "assistant", "tool_calls": called}, {"role": "tool", "content": None}]
    raw = json.dumps({"model": "m", "messages": messages, "tools": [WEATHER]}).encode()
    assert message_of_body(raw)["content"].endswith("The tool returned: ")


def message_of_body(raw: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(demo().chat(chat_call(raw=raw)).body)["choices"][0]["message"]
    return message


def test_the_older_functions_are_called_too() -> None:
    fields: dict[str, Any] = {"functions": [WEATHER["function"]], "prompt": "How is the weather in Ulm?"}
    for choice in ("auto", {"name": "get_weather"}):
        choices = json.loads(demo().chat(chat_call(function_call=choice, **fields)).body)["choices"]
        assert choices[0]["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city":"Ulm"}'}
        assert choices[0]["finish_reason"] == "function_call"
    chunks = payloads(list(demo().stream(chat_call(stream=True, **fields))))
    parts = [chunk["choices"][0]["delta"].get("function_call", {}) for chunk in chunks]
    assert parts[0] == {"name": "get_weather", "arguments": ""}
    assert "".join(part.get("arguments", "") for part in parts) == '{"city":"Ulm"}'
    assert (
        "function_call"
        not in json.loads(demo().chat(chat_call(function_call="none", **fields)).body)["choices"][0]["message"]
    )


def test_a_tool_that_takes_text_gets_text() -> None:
    custom = {"type": "custom", "custom": {"name": "code", "format": {"type": "text"}}}
    choice = {"type": "custom", "custom": {"name": "code"}}
    body = json.loads(demo().chat(chat_call(tools=[custom], tool_choice=choice, prompt="print('hi')")).body)
    assert body["choices"][0]["message"]["tool_calls"][0]["custom"] == {"name": "code", "input": "print('hi')"}


def test_arguments_count_as_what_was_said_and_keep_to_the_callers_bound() -> None:
    forced: dict[str, Any] = {"tools": [MAIL], "tool_choice": "required", "prompt": "Hi"}
    answer = demo().chat(chat_call(**forced))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    stream = demo().stream(chat_call(stream=True, **forced))
    list(stream)
    assert (stream.usage, stream.text_bytes) == (answer.usage, len('{"to":"demo@example.com","body":"Hi"}'))
    cut = json.loads(demo().chat(chat_call(max_tokens=1, **forced)).body)["choices"][0]
    assert (cut["message"]["tool_calls"][0]["function"]["arguments"], cut["finish_reason"]) == ('{"to":', "length")


@pytest.mark.parametrize("parameters", [None, 5, "x", [], {"type": "object", "properties": {}}, {"type": "object"}, {}])
def test_a_tool_without_parameters_gets_none(parameters: Any) -> None:
    called = calls_of(tools=[function("f", parameters)], tool_choice="required")
    assert called == [("f", {})]
