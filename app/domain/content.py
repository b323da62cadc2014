"""Content: the neutral form of a model call, between any caller's dialect and any vendor's.

A `Prompt` is what is asked, an `Answer` what comes back whole, and `Event`s are what comes back piece by piece. A
codec of `providers.dialects` turns each of them into its dialect's JSON and back. A call whose caller and vendor speak
the same dialect is never put into this form: its bytes pass untouched.

What a dialect says and this form has no word for is kept in one of two maps of the prompt, by the path of the field as
the caller wrote it (`tools[1].type`): `hints` may be left out without changing what is asked (cache marks, labels), and
`foreign` may not, so that another dialect refuses it unless the model's configuration says to drop it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.domain.usage import Usage

Role = Literal["system", "developer", "user", "assistant"]
# Why an answer ended. `tool_calls`: the caller is to run tools. `pause`: the vendor wants to be asked to go on.
Stop = Literal["end", "length", "stop_sequence", "tool_calls", "content_filter", "refusal", "pause", "context_window"]


class Opaque(msgspec.Struct, frozen=True):
    """A vendor's own data, which only it can read: a thinking signature, encrypted reasoning, a thought signature.

    `origin` is the name of the provider that wrote it: it is sent back to no other. `kind` is the dialect's own name of
    the field, such as `signature`, `redacted_thinking`, `encrypted_content` or `thoughtSignature`.
    """

    origin: str
    kind: str
    data: str
    id: str = ""  # of the vendor's item, where it has one


class CacheMark(msgspec.Struct, frozen=True):
    """A mark up to which a vendor is to cache the prompt; `ttl` is "5m", "1h" or "" for the vendor's default."""

    ttl: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a picture, a document or a sound: exactly one of `data` (base64), `url`, `file_id` and `text`."""

    media_type: str = ""
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    text: str | None = None


class _Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower):
    cache: CacheMark | None = None
    bag: dict[str, Any] = msgspec.field(default_factory=dict)  # what only one dialect knows of the block, by its field


class Text(_Block, frozen=True, kw_only=True):
    """Text of any role. `citations` are as the vendor wrote them."""

    text: str
    citations: tuple[Any, ...] = ()


class Image(_Block, frozen=True, kw_only=True):
    """A picture. `detail` is OpenAI's word: low, high, auto."""

    source: Source
    detail: str = ""


class Document(_Block, frozen=True, kw_only=True):
    """A document, mostly a PDF."""

    source: Source
    title: str = ""
    context: str = ""
    cites: bool = False


class Audio(_Block, frozen=True, kw_only=True):
    """Sound. `source.media_type` is such as audio/wav."""

    source: Source
    transcript: str = ""


class ToolCall(_Block, frozen=True, kw_only=True):
    """A call of the caller's tool. `arguments` is JSON text of an object, as the vendor wrote it; "" where there are
    none. For a `custom` tool it is the free text that the tool reads. `signature`: belongs to the call (Gemini)."""

    id: str
    name: str
    arguments: str = ""
    custom: bool = False
    signature: Opaque | None = None


class ToolResult(_Block, frozen=True, kw_only=True):
    """The result of a call, in a user's message. `name` is the tool's, "" where the dialect does not repeat it."""

    call_id: str
    content: tuple[Text | Image | Document | Audio, ...] = ()
    name: str = ""
    is_error: bool = False
    custom: bool = False


class Thinking(_Block, frozen=True, kw_only=True):
    """A model's reasoning. `text` may be empty (redacted or left out) and is then replayed by its `signature` alone."""

    text: str = ""
    signature: Opaque | None = None


class Refusal(_Block, frozen=True, kw_only=True):
    """A model's refusal, in its own words."""

    text: str


class ServerTool(_Block, frozen=True, kw_only=True):
    """A call or result of a tool that the vendor runs, as the vendor wrote it: only its own dialect can repeat it."""

    dialect: str
    value: dict[str, Any]


Block = Text | Image | Document | Audio | ToolCall | ToolResult | Thinking | Refusal | ServerTool


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A turn. Tool results stand in a user's message, before anything else that the user says."""

    role: Role
    blocks: tuple[Block, ...]
    name: str = ""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of the caller's. `schema` is the JSON Schema of its arguments, None for one without.

    A `custom` tool reads free text, in the `grammar` if there is one. `namespace` is its group (Responses).
    """

    name: str
    description: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    custom: bool = False
    grammar: dict[str, Any] | None = None
    namespace: str = ""
    cache: CacheMark | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Use of the tools: `required` means one of them must be, of those in `names` if there are any."""

    mode: Literal["auto", "none", "required"]
    names: tuple[str, ...] = ()


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the answer's text: JSON of any kind, or JSON that fits `schema`."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str = ""


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """The wanted amount of thinking.

    `effort` is none, minimal, low, medium, high, xhigh or max; `budget_tokens` is a number of tokens instead.
    `adaptive`: the model decides. `show`: None for the vendor's default, "" for nothing, otherwise auto, concise or
    detailed.
    """

    effort: str | None = None
    budget_tokens: int | None = None
    adaptive: bool = False
    show: str | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A request. None and the empty value mean that the caller did not say."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    format: Format | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_logprobs: int | None = None  # 0: of the chosen token alone
    verbosity: str | None = None
    user: str = ""
    service_tier: str = ""
    cache_key: str = ""
    stream: bool = False
    hints: dict[str, Any] = msgspec.field(default_factory=dict)
    foreign: dict[str, Any] = msgspec.field(default_factory=dict)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `native_stop` is the vendor's own word for `stop`; `created` is in Unix seconds, 0 if unknown.

    `logprobs` is a list of OpenAI's objects of a token. `usage` is None when the vendor sent none.
    """

    id: str
    model: str
    blocks: tuple[Block, ...]
    stop: Stop
    native_stop: str = ""
    stop_sequence: str | None = None
    created: int = 0
    usage: Usage | None = None
    service_tier: str = ""
    logprobs: list[Any] | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The first event of a stream, always. `usage` is what is known of the prompt by then."""

    id: str
    model: str
    created: int = 0
    usage: Usage | None = None
    service_tier: str = ""


class BlockStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A block begins. `block` is as yet without its text or arguments; a block that never comes in pieces is whole.

    Blocks follow each other: index 0, 1, 2 …, each begun after the one before it has ended.
    """

    index: int
    block: Block


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """More of the open block's text, thinking, refusal or arguments."""

    index: int
    text: str
    logprobs: list[Any] | None = None


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The signature of the open block: of thinking, or of a tool call."""

    index: int
    signature: Opaque


class Cited(msgspec.Struct, frozen=True, kw_only=True):
    """A citation of the open text."""

    index: int
    citation: Any


class BlockEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The open block is whole."""

    index: int


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of a stream, always and once: all blocks have ended. `usage` is final."""

    stop: Stop
    native_stop: str = ""
    stop_sequence: str | None = None
    usage: Usage | None = None
    service_tier: str = ""


Event = Started | BlockStarted | Delta | Signed | Cited | BlockEnded | Stopped
