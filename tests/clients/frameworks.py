"""Frameworks as clients, run in an environment of their own: `frameworks.py NAME URL KEY MODEL` prints what they got.

Each answers a prompt, streams an answer, and goes through a loop with one tool. What it prints is JSON: `text`,
`streamed`, `loop`, and `asked`, the arguments that its tool was called with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

PROMPT = "Hello"
_asked: list[str] = []


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    _asked.append(city)
    return "sunny"


def _langchain(model: Any) -> dict[str, Any]:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    weather = tool(get_weather)
    messages: list[Any] = [HumanMessage(PROMPT)]
    plain = model["plain"].invoke(messages)
    streamed = [chunk.text for chunk in model["plain"].stream(messages)]
    bound = model["tools"].bind_tools([weather])
    whole: Any = None
    for chunk in bound.stream(messages):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    results = [
        ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"], name=call["name"])
        for call in whole.tool_calls
    ]
    last = bound.invoke([*messages, whole, *results])
    return {"text": plain.text, "streamed": "".join(streamed), "loop": last.text}


def langchain_openai(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    common = {"base_url": f"{url}/v1", "api_key": key, "max_retries": 0}
    return _langchain({name: ChatOpenAI(model=alias(name), **common) for name in ("plain", "tools")})


def langchain_openai_responses(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    common = {"base_url": f"{url}/v1", "api_key": key, "max_retries": 0, "use_responses_api": True}
    return _langchain({name: ChatOpenAI(model=alias(name), **common) for name in ("plain", "tools")})


def langchain_anthropic(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from langchain_anthropic import ChatAnthropic

    common = {"base_url": url, "api_key": key, "max_retries": 0, "max_tokens": 2000}
    return _langchain({name: ChatAnthropic(model=alias(name), **common) for name in ("plain", "tools")})


def _pydantic_ai(models: dict[str, Any]) -> dict[str, Any]:
    from pydantic_ai import Agent

    plain = Agent(models["plain"]).run_sync(PROMPT).output
    with_tools = Agent(models["tools"], tools=[get_weather])
    loop = with_tools.run_sync(PROMPT).output
    stream = Agent(models["plain"]).run_stream_sync(PROMPT)
    return {"text": plain, "streamed": "".join(stream.stream_text(delta=True, debounce_by=None)), "loop": loop}


def pydantic_ai_chat(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
    return _pydantic_ai({name: OpenAIChatModel(alias(name), provider=provider) for name in ("plain", "tools")})


def pydantic_ai_responses(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
    return _pydantic_ai({name: OpenAIResponsesModel(alias(name), provider=provider) for name in ("plain", "tools")})


def pydantic_ai_anthropic(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    provider = AnthropicProvider(base_url=url, api_key=key)
    return _pydantic_ai({name: AnthropicModel(alias(name), provider=provider) for name in ("plain", "tools")})


def pydantic_ai_google(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    provider = GoogleProvider(base_url=url, api_key=key)
    return _pydantic_ai({name: GoogleModel(alias(name), provider=provider) for name in ("plain", "tools")})


def _litellm(prefix: str, url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    import litellm

    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    common: dict[str, Any] = {"api_base": url, "api_key": key, "num_retries": 0}
    messages: list[Any] = [{"role": "user", "content": PROMPT}]
    plain = litellm.completion(model=f"{prefix}/{alias('plain')}", messages=messages, **common)
    chunks = litellm.completion(model=f"{prefix}/{alias('plain')}", messages=messages, stream=True, **common)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    named = {"model": f"{prefix}/{alias('tools')}", "tools": [tool], **common}
    message = litellm.completion(messages=messages, **named).choices[0].message
    messages.append(message)
    for call in message.tool_calls:
        result = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    loop = litellm.completion(messages=messages, **named).choices[0].message.content
    return {"text": plain.choices[0].message.content, "streamed": streamed, "loop": loop}


def litellm_openai(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    return _litellm("openai", f"{url}/v1", key, alias)


def litellm_anthropic(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    return _litellm("anthropic", url, key, alias)


def litellm_gemini(url: str, key: str, alias: Callable[[str], str]) -> dict[str, Any]:
    return _litellm("gemini", f"{url}/v1beta", key, alias)


FRAMEWORKS = {
    "LangChain ChatOpenAI": langchain_openai,
    "LangChain ChatOpenAI, responses": langchain_openai_responses,
    "LangChain ChatAnthropic": langchain_anthropic,
    "Pydantic AI OpenAIChatModel": pydantic_ai_chat,
    "Pydantic AI OpenAIResponsesModel": pydantic_ai_responses,
    "Pydantic AI AnthropicModel": pydantic_ai_anthropic,
    "Pydantic AI GoogleModel": pydantic_ai_google,
    "LiteLLM openai/": litellm_openai,
    "LiteLLM anthropic/": litellm_anthropic,
    "LiteLLM gemini/": litellm_gemini,
}

if __name__ == "__main__":
    name, url, key, prefix = sys.argv[1:]
    got = FRAMEWORKS[name](url, key, lambda model: f"{prefix}{model}")
    print(json.dumps({**got, "asked": _asked}))
