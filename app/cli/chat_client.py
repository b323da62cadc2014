"""Chat client: a conversation with a model through the gateway, over HTTP and with the official SDK as any client's.

Importing `openai` costs 30 MB, so only the command that chats imports this module, when it runs.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    DefaultHttpxClient,
    OpenAI,
    OpenAIError,
)

from app.cli.rendering import one_line
from app.domain.usage import Usage
from app.providers.dialects.openai_usage import WireUsage, to_usage

_AUTO = "auto"
logging.getLogger("httpx2").setLevel(logging.WARNING)  # the SDK's client tells of each request


@dataclass(slots=True)  # not frozen: it is filled while the answer streams
class ChatAnswer:
    """An answer with usage and times. `usage` is None if the provider reports none; `ttft_s` is to the first text."""

    text: str = ""
    finished: bool = False
    provider: str = ""
    model: str = ""
    reason: str = ""  # of the gateway's choice of the model, if it made one
    cached: bool = False
    usage: Usage | None = None
    ttft_s: float | None = None
    took_s: float = 0.0


class ChatClient:
    """Remembers the conversation. Every failure is a `ClickException` of one line: the gateway's code and message."""

    def __init__(
        self,
        *,
        url: str,
        key: str,
        model: str = "",
        system: str = "",
        proxies: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._clock = clock
        # The person at the terminal decides whether to try again, so no error is waited out in silence.
        # A proxy of the environment is for addresses elsewhere; our own gateway is on this machine.
        try:
            self._client = OpenAI(
                base_url=url, api_key=key, max_retries=0, http_client=DefaultHttpxClient(trust_env=proxies)
            )
        except Exception as exc:  # boundary: the SDK's HTTP client has errors of its own for an address
            raise click.ClickException(f"{url!r} is no address: {one_line(str(exc))}") from exc
        self._messages: list[Any] = [{"role": "system", "content": system}] if system else []
        self.model = model or self._default_model()

    def ask(self, question: str, show: Callable[[str], None]) -> ChatAnswer:
        """Asks, and shows the answer piece by piece as it arrives. Both are remembered.

        A `KeyboardInterrupt` closes the call, which ends it upstream too, and passes on; what was shown until then is
        remembered as the answer. A question that failed is forgotten.
        """
        answer = ChatAnswer()
        messages = [*self._messages, {"role": "user", "content": question}]
        try:
            self._stream(messages, answer, show)
        except KeyboardInterrupt:
            if answer.text:
                self._messages = [*messages, {"role": "assistant", "content": answer.text}]
            raise
        except (OpenAIError, ValueError) as exc:  # ValueError: the answer is not JSON, or not text
            raise click.ClickException(self._error_line(exc)) from None
        if not answer.finished:
            raise click.ClickException(f"{self._url}: the answer broke off.")
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def _stream(self, messages: list[Any], answer: ChatAnswer, show: Callable[[str], None]) -> None:
        started = self._clock()
        with self._client.chat.completions.create(
            model=self.model, messages=messages, stream=True, stream_options={"include_usage": True}
        ) as stream:
            headers = stream.response.headers
            answer.provider, answer.model = headers.get("x-penstock-provider", ""), headers.get("x-penstock-model", "")
            answer.reason = headers.get("x-penstock-route-reason", "")
            answer.cached = headers.get("x-penstock-cache") == "hit"
            for chunk in stream:
                if chunk.usage is not None:
                    answer.usage = _usage(chunk.usage, chunk.service_tier)
                for choice in chunk.choices or ():
                    answer.finished = answer.finished or bool(choice.finish_reason)
                    text = choice.delta and (choice.delta.content or choice.delta.refusal)
                    if text:
                        answer.ttft_s = answer.ttft_s or self._clock() - started
                        answer.text += text
                        show(text)
        answer.took_s = self._clock() - started

    def _default_model(self) -> str:
        """Returns `auto` where it is offered, else the first model that this key may use: in the order of the
        configuration, those that cannot be served last."""
        try:
            models = sorted(self._client.models.list(), key=lambda model: getattr(model, "available", True) is False)
            offered = [model.id for model in models]
        except (OpenAIError, ValueError, TypeError) as exc:  # TypeError: an answer that is no list
            raise click.ClickException(self._error_line(exc)) from None
        if not offered:
            raise click.ClickException(f"{self._url}: this key may use no model")
        return _AUTO if _AUTO in offered else offered[0]

    def _error_line(self, exc: Exception) -> str:
        if isinstance(exc, APITimeoutError):
            return f"{self._url}: no answer in time"
        if isinstance(exc, APIConnectionError):
            reason = re.sub(r"^\[Errno -?\d+\] ", "", str(exc.__cause__ or exc))
            return one_line(f"{self._url}: {reason}")
        if not isinstance(exc, APIError):
            return f"{self._url}: the answer is not what a gateway says"
        body = exc.body if isinstance(exc.body, dict) else {}
        message = body.get("message") or "the answer is not what a gateway says"
        code = exc.code or (f"HTTP {exc.status_code} from {self._url}" if isinstance(exc, APIStatusError) else "error")
        return one_line(f"{code}: {message}")


def _usage(wire: Any, service_tier: str | None) -> Usage | None:
    try:
        return to_usage(msgspec.convert(wire.model_dump(), WireUsage, strict=False), service_tier)
    except ValueError:
        return None
