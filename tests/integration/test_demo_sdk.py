"""The official SDK beyond plain chat, offline: parsed answers, tools, text completions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed

CONFIG = (
    "providers: {demo: {kind: demo, script: {chunk_delay_s: 0.001}}}\nmodels: {demo: {targets: [{provider: demo}]}}\n"
)
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Alice Liu, 25, and Bob meet in Paris on Friday about the weather."}
]


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Step(BaseModel):
    explanation: str
    output: float


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None


class Meeting(BaseModel):
    name: str
    age: int
    participants: list[str]
    mood: Mood
    steps: Annotated[list[Step], Field(min_length=2)]
    pet: Cat | Dog
    follow_up: Meeting | None
    share: Annotated[float, Field(gt=0, lt=1)]


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str
    days: Annotated[int, Field(ge=1, le=14)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[OpenAI]:
    flushed(redis_server.url)
    with (
        Gateway(tmp_path_factory.mktemp("demo"), CONFIG, redis_url=redis_server.url) as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key=DEV_KEY, max_retries=0) as made,
    ):
        yield made


def test_an_answer_is_parsed_into_the_callers_own_class(client: OpenAI) -> None:
    parsed = (
        client.chat.completions.parse(model="demo", messages=MESSAGES, response_format=Meeting)
        .choices[0]
        .message.parsed
    )
    assert parsed is not None
    assert (parsed.name, parsed.age, parsed.participants) == ("Alice Liu", 25, ["Alice Liu", "Bob"])
    with client.chat.completions.stream(model="demo", messages=MESSAGES, response_format=Meeting) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.parsed == parsed
    assert kinds.count("content.delta") > 10, "it comes in pieces"


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "GetWeather"}}])
def test_a_tools_arguments_are_parsed_and_its_result_is_answered(client: OpenAI, choice: Any) -> None:
    tools = [openai.pydantic_function_tool(GetWeather)]
    message = (
        client.chat.completions.parse(model="demo", messages=MESSAGES, tools=tools, tool_choice=choice)
        .choices[0]
        .message
    )
    [call] = message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Paris", days=1)
    with client.chat.completions.stream(model="demo", messages=MESSAGES, tools=tools, tool_choice=choice) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed is not None
    assert streamed[0].function.arguments == call.function.arguments
    asked: Any = message.model_dump(exclude_none=True)
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
    answer = client.chat.completions.create(model="demo", messages=[*MESSAGES, asked, result], tools=tools)
    assert (answer.choices[0].message.content or "").endswith("Sunny")


def test_a_json_object_is_one(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=MESSAGES, response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content or "")["you_said"] == MESSAGES[0]["content"]


def test_a_text_completion_whole_and_streamed(client: OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="Hello", max_tokens=50)
    assert whole.object == "text_completion"
    assert "You said: Hello" in whole.choices[0].text
    assert whole.usage is not None
    stream = client.completions.create(
        model="demo", prompt="Hello", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert last.usage == whole.usage
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="demo", prompt=["a", "b"])
    assert error.value.param == "prompt"
