"""The official SDKs, unmodified, through a real gateway: each caller's dialect by a played vendor of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types as google
from pydantic import BaseModel

from tests.support.servers import DEV_KEY, Gateway, RedisServer, flushed
from tests.support.vendors.gateway import DIALECTS, PRICES, alias, configuration
from tests.support.vendors.server import Vendors

MODELS = ("plain", "tools", "tools-think", "parallel-2", "parallel-2-kimi", "usage-100-7-20")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA},
}
RESPONSES_TOOL: Any = {**CHAT_TOOL["function"], "type": "function", "strict": True}
MESSAGES_TOOL: Any = {"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA}
ASKED: Any = [{"role": "user", "content": "Hello"}]
BRIEFLY: Any = [{"role": "system", "content": "Be brief."}, *ASKED]
QUOTED = {"tools": "The tools said: sunny.", "parallel-2": "The tools said: sunny | sunny."}
each_vendor = pytest.mark.parametrize("vendor_dialect", DIALECTS)
each_loop = pytest.mark.parametrize("model", ["tools", "tools-think", "parallel-2", "parallel-2-kimi"])


class City(BaseModel):
    city: str


@pytest.fixture(scope="module")
def penstock(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, played_vendors: Vendors
) -> Iterator[Gateway]:
    flushed(redis_server.url)
    directory = tmp_path_factory.mktemp("sdks")
    config = configuration(played_vendors, MODELS)
    with Gateway(directory, config, redis_url=redis_server.url, prices=PRICES) as gateway:
        yield gateway


@pytest.fixture
def openai_client(penstock: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{penstock.url}/v1", api_key=DEV_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(penstock: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=penstock.url, api_key=DEV_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def google_client(penstock: Gateway) -> Iterator[genai.Client]:
    options = google.HttpOptions(base_url=penstock.url)
    with genai.Client(api_key=DEV_KEY, http_options=options) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_refused(vendors: Vendors) -> Iterator[None]:
    """What the gateway sends is what each vendor takes."""
    yield
    assert [request["refused"] for request in vendors.requests() if "refused" in request] == []


def quoted(model: str) -> str:
    return QUOTED["parallel-2" if model.startswith("parallel") else "tools"]


@each_vendor
class TestOpenAIChat:
    def test_chat_completions_answer(self, vendor_dialect: str, openai_client: openai.OpenAI) -> None:
        model = alias(vendor_dialect, "plain")
        completion = openai_client.chat.completions.create(model=model, messages=BRIEFLY)
        assert completion.choices[0].message.content == "Hello there."
        assert completion.choices[0].finish_reason == "stop"

    def test_chat_usage_counts_the_cache(self, vendor_dialect: str, openai_client: openai.OpenAI) -> None:
        model = alias(vendor_dialect, "usage-100-7-20")
        options: Any = {"include_usage": True}
        with openai_client.chat.completions.stream(model=model, messages=BRIEFLY, stream_options=options) as stream:
            streamed = stream.get_final_completion().usage
        whole = openai_client.chat.completions.create(model=model, messages=BRIEFLY).usage
        for usage in (streamed, whole):
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 7, 107)
            assert usage.prompt_tokens_details.cached_tokens == 20

    def test_chat_answers_fit_a_schema(self, vendor_dialect: str, openai_client: openai.OpenAI) -> None:
        model = alias(vendor_dialect, "plain")
        parsed = openai_client.chat.completions.parse(model=model, messages=BRIEFLY, response_format=City)
        assert parsed.choices[0].message.parsed == City(city="Ulm")

    @each_loop
    def test_chat_goes_through_a_tool_loop_by_its_stream_helper(
        self, vendor_dialect: str, model: str, openai_client: openai.OpenAI
    ) -> None:
        messages: list[Any] = [*BRIEFLY]
        named: dict[str, Any] = {"model": alias(vendor_dialect, model), "tools": [CHAT_TOOL]}
        with openai_client.chat.completions.stream(messages=messages, **named) as stream:
            message = stream.get_final_completion().choices[0].message
        calls = message.tool_calls or []
        assert json.loads(calls[0].function.arguments) == {"city": "Ulm"}
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
        again = openai_client.chat.completions.create(messages=messages, **named)
        assert again.choices[0].message.content == quoted(model)


@each_vendor
class TestOpenAIResponses:
    def test_responses_answer(self, vendor_dialect: str, openai_client: openai.OpenAI) -> None:
        model = alias(vendor_dialect, "plain")
        response = openai_client.responses.create(model=model, input="Hello", instructions="Be brief.")
        assert response.output_text == "Hello there."
        assert response.status == "completed"

    def test_the_stream_helper_of_responses_counts_the_cache(
        self, vendor_dialect: str, openai_client: openai.OpenAI
    ) -> None:
        model = alias(vendor_dialect, "usage-100-7-20")
        with openai_client.responses.stream(model=model, input="Hello") as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            response = stream.get_final_response()
        assert text == response.output_text == "tok " * 7
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (100, 7)
        assert response.usage.input_tokens_details.cached_tokens == 20

    def test_responses_fit_a_schema(self, vendor_dialect: str, openai_client: openai.OpenAI) -> None:
        model = alias(vendor_dialect, "plain")
        response = openai_client.responses.parse(model=model, input="Hello", text_format=City)
        assert response.output_parsed == City(city="Ulm")

    @each_loop
    def test_a_stateless_tool_loop_replays_reasoning(
        self, vendor_dialect: str, model: str, openai_client: openai.OpenAI
    ) -> None:
        named: dict[str, Any] = {
            "model": alias(vendor_dialect, model),
            "tools": [RESPONSES_TOOL],
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "low", "summary": "auto"},
        }
        items: list[Any] = [{"role": "user", "content": "Hello"}]
        with openai_client.responses.stream(input=items, **named) as stream:
            response = stream.get_final_response()
        if "think" in model and vendor_dialect != "chat":
            assert response.output[0].type == "reasoning"
        calls = [item for item in response.output if item.type == "function_call"]
        items += response.output
        items += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
        assert openai_client.responses.create(input=items, **named).output_text == quoted(model)

    @each_loop
    def test_a_tool_loop_on_what_is_stored(self, vendor_dialect: str, model: str, openai_client: openai.OpenAI) -> None:
        named: dict[str, Any] = {"model": alias(vendor_dialect, model), "tools": [RESPONSES_TOOL]}
        first = openai_client.responses.create(input="Hello", **named)
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
            for item in first.output
            if item.type == "function_call"
        ]
        second = openai_client.responses.create(input=outputs, previous_response_id=first.id, **named)
        assert second.output_text == quoted(model)


@each_vendor
class TestAnthropic:
    def test_messages_answer(self, vendor_dialect: str, anthropic_client: anthropic.Anthropic) -> None:
        model = alias(vendor_dialect, "plain")
        message = anthropic_client.messages.create(model=model, max_tokens=2000, messages=ASKED, system="Be brief.")
        assert [block.text for block in message.content if block.type == "text"] == ["Hello there."]
        assert message.stop_reason == "end_turn"

    def test_the_stream_helper_of_messages_counts_the_cache(
        self, vendor_dialect: str, anthropic_client: anthropic.Anthropic
    ) -> None:
        model = alias(vendor_dialect, "usage-100-7-20")
        with anthropic_client.messages.stream(model=model, max_tokens=2000, messages=ASKED) as stream:
            text = "".join(stream.text_stream)
            usage = stream.get_final_message().usage
        assert text == "tok " * 7
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (80, 20, 7)

    @each_loop
    def test_a_tool_loop_replays_thinking(
        self, vendor_dialect: str, model: str, anthropic_client: anthropic.Anthropic
    ) -> None:
        named: dict[str, Any] = {
            "model": alias(vendor_dialect, model),
            "max_tokens": 4000,
            "tools": [MESSAGES_TOOL],
            "thinking": {"type": "enabled", "budget_tokens": 2000},
        }
        with anthropic_client.messages.stream(messages=ASKED, **named) as stream:
            message = stream.get_final_message()
        assert message.stop_reason == "tool_use"
        if "think" in model:
            assert message.content[0].type == "thinking"
        uses = [block for block in message.content if block.type == "tool_use"]
        assert uses[0].input == {"city": "Ulm"}
        results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
        said: Any = {"role": "assistant", "content": message.content}
        told: Any = {"role": "user", "content": results}
        again = anthropic_client.messages.create(messages=[*ASKED, said, told], **named)
        assert [block.text for block in again.content if block.type == "text"] == [quoted(model)]

    def test_messages_fit_a_schema(self, vendor_dialect: str, anthropic_client: anthropic.Anthropic) -> None:
        model = alias(vendor_dialect, "plain")
        message = anthropic_client.messages.parse(model=model, max_tokens=2000, messages=ASKED, output_format=City)
        assert message.parsed_output == City(city="Ulm")

    def test_tokens_of_messages_are_counted(self, vendor_dialect: str, anthropic_client: anthropic.Anthropic) -> None:
        model = alias(vendor_dialect, "plain")
        counted = anthropic_client.messages.count_tokens(model=model, messages=ASKED)
        assert counted.input_tokens >= 1


@each_vendor
class TestGoogle:
    DECLARED = google.FunctionDeclaration(name="get_weather", description="Weather.", parameters_json_schema=SCHEMA)

    def test_contents_are_generated(self, vendor_dialect: str, google_client: genai.Client) -> None:
        config = google.GenerateContentConfig(system_instruction="Be brief.", top_k=64)
        answer = google_client.models.generate_content(
            model=alias(vendor_dialect, "plain"), contents="Hello", config=config
        )
        assert answer.text == "Hello there."
        assert [candidate.finish_reason for candidate in answer.candidates or ()] == [google.FinishReason.STOP]

    def test_a_stream_of_contents_counts_the_cache(self, vendor_dialect: str, google_client: genai.Client) -> None:
        chunks = list(
            google_client.models.generate_content_stream(
                model=alias(vendor_dialect, "usage-100-7-20"), contents="Hello"
            )
        )
        assert "".join(chunk.text or "" for chunk in chunks) == "tok " * 7
        usage = chunks[-1].usage_metadata
        assert usage is not None
        counts = (usage.prompt_token_count, usage.cached_content_token_count, usage.candidates_token_count)
        assert counts == (100, 20, 7)

    @each_loop
    def test_a_tool_loop_replays_signatures(self, vendor_dialect: str, model: str, google_client: genai.Client) -> None:
        config = google.GenerateContentConfig(
            tools=[google.Tool(function_declarations=[self.DECLARED])],
            automatic_function_calling=google.AutomaticFunctionCallingConfig(disable=True),
            thinking_config=google.ThinkingConfig(include_thoughts=True),
        )
        chat = google_client.chats.create(model=alias(vendor_dialect, model), config=config)
        calls = [call for chunk in chat.send_message_stream("Hello") for call in chunk.function_calls or []]
        assert calls[0].args == {"city": "Ulm"}
        results = [
            google.Part(
                function_response=google.FunctionResponse(id=call.id, name=call.name, response={"output": "sunny"})
            )
            for call in calls
        ]
        assert chat.send_message(results).text == quoted(model)

    def test_contents_fit_a_schema(self, vendor_dialect: str, google_client: genai.Client) -> None:
        config = google.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
        answer = google_client.models.generate_content(
            model=alias(vendor_dialect, "plain"), contents="Hello", config=config
        )
        assert answer.parsed == City(city="Ulm")

    def test_tokens_of_contents_are_counted(self, vendor_dialect: str, google_client: genai.Client) -> None:
        counted = google_client.models.count_tokens(model=alias(vendor_dialect, "plain"), contents="Hello")
        assert (counted.total_tokens or 0) >= 1
