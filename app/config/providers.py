"""The providers of `config/gateway.yaml`: a vendor's API or the built-in demo, with its key, address and time-outs."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from app.config.section import Seconds, Section


class Timeouts(Section):
    """The timeouts of an upstream call. One before the answer's headers can still fall back, a later one cannot."""

    connect_s: Seconds = Field(5.0, description="Name resolution, TCP and TLS handshake.")
    first_byte_s: Seconds = Field(
        120.0, description="From the request sent to the answer's headers; streams: first chunk."
    )
    idle_s: Seconds = Field(60.0, description="Silence between two reads of a body or stream.")
    total_s: Seconds = Field(600.0, description="The whole call, every retry and fallback included.")


class DemoScript(Section):
    """The behaviour of the built-in offline provider: deterministic, for the first run and for tests."""

    delay_s: float = Field(0.0, ge=0, le=600, description="Silence before the first byte.")
    chunk_delay_s: float = Field(0.02, ge=0, le=60, description="Silence between two chunks of a stream.")
    reply: str | None = Field(None, description="The text of every answer; by default it echoes the last message.")
    prompt_tokens: int | None = Field(None, ge=0, description="Reported prompt tokens; by default one a word.")
    completion_tokens: int | None = Field(None, ge=0, description="Reported completion tokens; by default one a word.")
    fail_status: int | None = Field(None, ge=400, le=599, description="Answer every call with this upstream status.")
    fail_times: int | None = Field(None, ge=1, description="Only the first N calls fail; by default every one does.")
    cut_after_chunks: int | None = Field(None, ge=0, description="Streams break off after N chunks.")
    omit_usage: bool = Field(False, description="Answers carry no usage.")


# Vendors whose answers tell their cost in dollars: see `domain.reported_cost`.
_REPORT_DOLLARS = ("openrouter.ai", "perplexity.ai", "x.ai")
_KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
# As the vendors' own SDKs take them. OpenAI's dialect has many vendors: there none is assumed.
_BASE_URLS = {"anthropic": "https://api.anthropic.com", "gemini": "https://generativelanguage.googleapis.com"}


class ProviderConfig(Section):
    """A vendor's API, or the built-in demo."""

    kind: str = Field(description="The vendor's API: openai, anthropic, gemini, demo.")
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@{}]+(/[^\s?#]*)?$",
        description="As the vendor's own SDK takes it: for openai up to and without /chat/completions, for the others "
        "with or without the version. {model} in the path stands for the provider's name of the model, as in Azure's "
        "/openai/deployments/{model}.",
    )
    api_key: str | None = Field(
        None,
        repr=False,
        description="Sent as a bearer token. Write ${NAME}, never the key itself. While it is empty, the provider is "
        "not asked; leave it out where no key is needed.",
    )
    key_variable: str | None = Field(
        None, description="What to set when the key is missing, as errors tell it; by default the NAME in api_key."
    )
    headers: dict[str, str] = Field(
        default_factory=dict, repr=False, description="Sent with every call, such as api-key for Azure."
    )
    query: dict[str, str] = Field(
        default_factory=dict, repr=False, description="Added to every URL, such as api-version for Azure."
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None,
        description="The field that bounds answers to keys with a budget; by default max_completion_tokens at OpenAI "
        "and Azure, and max_tokens elsewhere.",
    )
    prices: str | None = Field(None, description="The provider's id in genai-prices; by default found from base_url.")
    trust_reported_cost: bool | None = Field(
        None,
        description="Whether a call costs what the vendor's answer says, in US dollars, instead of what our prices say "
        "(the ledger has both). By default at OpenRouter, Perplexity and xAI.",
    )
    ca_file: str | None = Field(None, description="PEM file of the authorities to trust instead of the system's.")
    max_connections: int = Field(1000, ge=1, le=100_000, description="At the most at once, for each worker process.")
    max_idle_connections: int = Field(100, ge=0, le=10_000, description="Kept open for reuse, for each worker process.")
    timeouts: Timeouts | None = Field(None, description="Instead of the global ones.")
    script: DemoScript | None = Field(None, description="Only for kind demo.")

    @model_validator(mode="before")
    @classmethod
    def _with_default_base_url(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("base_url") is None:
            data = {**data, "base_url": _BASE_URLS.get(str(data.get("kind")))}
        return data

    @field_validator("base_url")
    @classmethod
    def _check_placeholders(cls, url: str | None) -> str | None:
        if url is not None and re.search(r"[{}]", url.replace("{model}", "")):
            raise ValueError("the only placeholder is {model}")
        return url

    @field_validator("api_key")
    @classmethod
    def _normalize_blank_key(cls, key: str | None) -> str | None:
        return (key or "").strip() or None

    @property
    def has_key(self) -> bool:
        """True if calls carry a key, in `api_key` or in a header."""
        return bool(self.api_key) or not _KEY_HEADERS.isdisjoint(name.lower() for name in self.headers)

    @property
    def has_no_key(self) -> bool:
        """True if a key is required and missing."""
        required = "api_key" in self.model_fields_set and not self.is_built_in
        return required and not self.has_key

    @property
    def is_built_in(self) -> bool:
        """True for the demo model, which answers inside this process: it needs no key, and costs nothing."""
        return self.kind == "demo"

    @property
    def trusts_reported_cost(self) -> bool:
        """True if a call costs what the vendor reports. Elsewhere than at these the unit of a `cost` is unknown."""
        if self.trust_reported_cost is not None:
            return self.trust_reported_cost
        host = urlsplit(self.base_url or "").hostname or ""
        return host in _REPORT_DOLLARS or host.endswith(tuple(f".{name}" for name in _REPORT_DOLLARS))

    @model_validator(mode="after")
    def _check_headers(self) -> ProviderConfig:
        for name, value in self.headers.items():
            if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not value.isprintable():
                raise ValueError(f"header {name!r} has characters that a header cannot carry")
        if not all(self.query):
            raise ValueError("a parameter of the query has no name")
        return self
