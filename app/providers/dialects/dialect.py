"""Dialect interface: what a codec of one wire format offers, and what it is given.

A codec has six functions between its dialect and the neutral form of `domain.content`: request in and out, answer in
and out, stream in and out. Beside them it reads, without changing them, the bytes of calls whose caller and vendor
both speak the dialect: only what admission and accounting need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from app.domain.content import Answer, Event, Prompt
from app.domain.generation import DialectName, GenerationRequest
from app.domain.usage import Usage
from app.errors import GatewayError, Untranslatable


class Outgoing(msgspec.Struct, kw_only=True):
    """The target of a request that is encoded. Mutable: encoders note in `dropped` what they left out.

    `origin` is the provider's name: vendors' own data (`content.Opaque`) of another one is left out. `model` is the
    provider's name for the model. `max_output_tokens`, if not None, replaces the caller's own bounds. Where the
    dialect requires a bound and nobody set one, `model_max_output_tokens` is it. `drop` are the paths that the model's
    configuration lets fall, such as `logit_bias` or `tools.web_search`.
    """

    origin: str
    model: str
    stream: bool
    max_output_tokens: int | None = None
    model_max_output_tokens: int = 16_384
    max_tokens_field: str = "max_tokens"  # of chat completions
    drop: frozenset[str] = frozenset()
    dropped: list[str] = msgspec.field(default_factory=list)

    def refuse(self, path: str, dialect: str) -> None:
        """Drops what stands at `path` if the configuration says so. Raises `Untranslatable` otherwise."""
        names = [part.partition("[")[0] for part in path.split(".")]
        if not any(".".join(names[: i + 1]) in self.drop for i in range(len(names))):
            raise Untranslatable(
                f"`{path}` cannot be translated to the {dialect} API, which the model {self.model} is served by. The "
                f"model's `drop` in gateway.yaml can let it fall.",
                param=path,
            )
        self.leave_out(path)

    def leave_out(self, path: str) -> None:
        """Notes that a hint was left out: something without which the same is asked."""
        if path not in self.dropped:
            self.dropped.append(path)

    def check(self, prompt: Prompt, dialect: str) -> None:
        """Notes the prompt's hints and drops or refuses its foreign fields. Every `encode_request` begins with it."""
        for path in prompt.hints:
            self.leave_out(path)
        for path in prompt.foreign:
            self.refuse(path, dialect)


class Framing(msgspec.Struct, frozen=True, kw_only=True):
    """The call that an encoded answer belongs to: what its dialect repeats from the request.

    `call_id` is unique and made of [0-9a-z_]: ids that the vendor did not give are made of it. `created` is in Unix
    seconds. `fields` are the caller's top-level fields, `prompt` is what they mean.
    """

    call_id: str
    created: int
    prompt: Prompt
    fields: Mapping[str, msgspec.Raw]
    include_usage: bool = True


# Raised by a decoder for what is no answer of its dialect: `ValueError` where it noticed, the others where it did not.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class StreamReported(Exception):
    """An error event of the vendor's. `status` is the HTTP status that it would have been, 500 if it does not say.

    `payload` is the event as it came, for callers of the same dialect.
    """

    def __init__(self, message: str, *, status: int = 500, payload: bytes = b"") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.payload = payload


class StreamDecoder(Protocol):
    """Turns one vendor stream into events. `complete`: the dialect's terminal event has come."""

    complete: bool

    def decode(self, name: str, payload: bytes) -> Iterable[Event]:
        """Returns the events that one SSE event stands for, in the grammar of `content`.

        `name` is the text of its `event:` line, "" without one. Raises `StreamReported`, and `ValueError` for what is
        no event of the dialect.
        """

    def end(self) -> Iterable[Event]:
        """Returns the events that are due when the body has ended. `complete` stays False if the stream was cut."""


class StreamEncoder(Protocol):
    """Writes one caller's stream. Events come in the grammar of `content`."""

    def encode(self, event: Event) -> bytes:
        """Returns the SSE events that `event` stands for; b"" for none."""

    def ending(self) -> bytes:
        """Returns what ends the stream: sent after `Stopped`, when the call is settled."""


class Watch(Protocol):
    """Reads a stream that passes untouched. Counts as `providers.base.ProviderStream` does.

    `started`: something of the answer itself has come, so that another target can no longer take over. `complete`: the
    terminal event has come; it and what follows it are `ending`, which the client gets when the call is settled.
    `usage` is None until it is final; `prompt_usage` is what the vendor has said of the prompt by then, if anything: it
    counts when the stream breaks off.
    """

    usage: Usage | None
    text_bytes: int
    chunks: int
    started: bool
    complete: bool

    def see(self, name: str, payload: bytes) -> bool:
        """Records an event, and returns True if the client gets it now. Raises `StreamReported`, `ValueError`."""

    def end(self) -> None:
        """Records that the body has ended."""

    @property
    def prompt_usage(self) -> Usage | None:
        """Usage of the prompt, as far as the vendor has told it."""

    @property
    def ending(self) -> bytes:
        """The last bytes for the client, once the call is settled."""


class Reported(msgspec.Struct, frozen=True):
    """Cost of a whole answer. `text_bytes` is the UTF-8 length of what was generated, if `usage` is None."""

    usage: Usage | None
    text_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One wire format.

    `path` takes the provider's model name and whether the answer is streamed; it begins with `/` and stands behind the
    version. `decode_request`, `decode_answer` and `stream_decoder` take the origin: whose `content.Opaque`s those are.
    `pass_request` returns the caller's own body with the least changes (model, bound, usage asked for). `read_answer`
    raises `ValueError` for a body that is no answer.
    """

    name: DialectName
    title: str  # for messages, such as "Anthropic messages"
    path: Callable[[str, bool], str]

    decode_request: Callable[[GenerationRequest], Prompt]
    encode_request: Callable[[Prompt, Outgoing], dict[str, Any]]
    decode_answer: Callable[[bytes, str], Answer]
    encode_answer: Callable[[Answer, Framing], bytes]
    stream_decoder: Callable[[str], StreamDecoder]
    stream_encoder: Callable[[Framing], StreamEncoder]

    pass_request: Callable[[GenerationRequest, Outgoing], bytes]
    read_answer: Callable[[bytes], Reported]
    watch: Callable[[GenerationRequest], Watch]

    error_body: Callable[[GatewayError, str], dict[str, Any]]  # the error and the request id
    # An error after the first byte, as SSE; the events so far tell ids and numbers, so the stream's encoder is given
    # where there is one.
    error_event: Callable[[GatewayError, str, StreamEncoder | Watch | None], bytes]
    heartbeat: bytes = b": keep-alive\n\n"
