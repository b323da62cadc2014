"""Generation requests: what admission, routing and accounting need of a request, whatever dialect it is written in.

Each dialect has a subclass that parses its body once, at the edge, and keeps every field as the bytes it came in:
`domain.chat`, `domain.messages`, `domain.responses` and `domain.gemini`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import msgspec

from app.domain.tokens import BYTES_PER_TOKEN, estimate_tokens

DialectName = Literal["chat", "messages", "responses", "gemini"]
# The most that a picture can cost: OpenAI's tile pricing for a high-detail image on the models that count it dearest.
IMAGE_CEILING_TOKENS = 50_000
IMAGE_ESTIMATE_TOKENS = 1_000
# Chat templates add a few tokens a message ("<|im_start|>role …"); vendors document 3 to 5.
TOKENS_PER_MESSAGE = 8


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for generated text. A subclass names its dialect, and parses the fields that the gateway acts on.

    `raw` is the body as it came, `fields` are its top-level fields as they go out. `model` is "" when the body names
    none: preprocessing then picks one. `images` are the pictures in the prompt, `inline_bytes` the length of all
    base64 that is not text.
    """

    dialect: ClassVar[DialectName]

    model: str = ""
    stream: bool | None = None
    temperature: float | None = None
    user: str | None = None
    service_tier: str | None = None
    # Fields that make a vendor search the web, which it bills by the search: OpenAI's, xAI's, OpenRouter's, and tools.
    web_search_options: msgspec.Raw = msgspec.Raw(b"")
    search_parameters: msgspec.Raw = msgspec.Raw(b"")
    plugins: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    # Never read from the body: `parse` sets them, whatever a body has under these names.
    raw: bytes = msgspec.field(default=b"", name="(raw)")
    fields: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict, name="(fields)")
    images: int = msgspec.field(default=0, name="(images)")
    inline_bytes: int = msgspec.field(default=0, name="(inline_bytes)")

    @property
    def message_count(self) -> int:
        """The messages of the prompt, tool results among them."""
        raise NotImplementedError

    @property
    def texts(self) -> list[str]:
        """The prompt's texts, of every role, in order: for the rules that pick a model."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        """Says that the caller wants the usage in its stream. Every dialect but chat always has it there."""
        return True

    @property
    def choices(self) -> int:
        """The number of answers that are asked for."""
        return 1

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's bound on each choice; None when the caller set none."""
        raise NotImplementedError

    def with_model(self, model: str) -> Self:
        """Returns the same request for another model."""
        raise NotImplementedError

    def canonical(self) -> Self:
        """Returns the same request with everything in it encoded anew: for a caller with a budget.

        Nothing in it can cost more than its bytes, its pictures and its bounds allow. Raises `InvalidRequest` for
        content of unknown cost (a file, sound that the provider stores), and for a field name in an odd spelling.
        """
        raise NotImplementedError

    def completion_tokens_upper_bound(self, bound: int) -> int:
        """Returns the most completion tokens that are billed when each choice is bounded by `bound`."""
        return bound * self.choices

    def estimate_prompt_tokens(self) -> int:
        """Returns a likely count of prompt tokens, from the length of the body: good enough for a reservation."""
        return (len(self.raw) - self.inline_bytes) // BYTES_PER_TOKEN + self.images * IMAGE_ESTIMATE_TOKENS + 1

    def estimate_prompt_tokens_closely(self) -> int:
        """Returns a better estimate, from the body's characters: for a call whose provider reports no usage."""
        estimate = self.estimate_prompt_tokens()
        return estimate if self.images else max(estimate_tokens(self.raw), estimate)

    def prompt_tokens_upper_bound(self) -> int:
        """Returns a count of prompt tokens that no byte-level tokenizer can exceed for this body."""
        return (
            len(self.raw)
            - self.inline_bytes
            + self.images * IMAGE_CEILING_TOKENS
            + self.message_count * TOKENS_PER_MESSAGE
        )
