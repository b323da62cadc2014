"""The schema of `config/gateway.yaml`: every field with its bounds, default and meaning."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from app.config import features
from app.config.section import Count, Name, Seconds, Section
from app.config.server import ServerConfig
from app.domain.identity import DEFAULT_PLAN


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


# A wire of a provider of kind openai.
Wire = Literal["chat", "responses"]


class TargetConfig(Section):
    """One provider's model, as a target or fallback of an alias."""

    provider: str = Field(description="A name from `providers`.")
    model: str | None = Field(
        None, min_length=1, description="The provider's name for the model; by default the alias."
    )
    weight: float = Field(
        1.0, ge=0, le=1_000_000, description="Share of first attempts, relative to the other targets."
    )
    wire: Wire | None = Field(None, description="By default the model's.")


Capability = Literal["tools", "vision", "json_schema", "thinking", "audio", "pdf"]


class ModelConfig(Section):
    """An alias: the name that callers use for a model, and what serves it."""

    name: str | None = Field(None, max_length=256, description="Shown in /models; by default the alias.")
    description: str | None = Field(None, max_length=1000, description="Shown in /models.")
    kind: Literal["chat", "embedding", "moderation", "audio", "image"] = Field(
        "chat", description="Only chat models are defaults of chat calls; moderation and image calls name none either."
    )
    targets: tuple[TargetConfig, ...] = Field(
        min_length=1, description="The targets that can serve the model; a provider's name alone is a target, too."
    )
    fallbacks: tuple[str | TargetConfig, ...] = Field(
        (), description="Tried in order when no target can: models, providers or targets."
    )
    max_output_tokens: Count = Field(
        16_384, description="The longest answer: what a budget reserves when the caller sets no bound."
    )
    context_window: Count | None = Field(
        None,
        description="The longest prompt, in tokens: a longer one is refused before it is sent. By default as "
        "genai-prices says, if it does.",
    )
    capabilities: tuple[Capability, ...] | None = Field(
        None, description="What the model can do, of tools, vision, json_schema, thinking, audio, pdf: for /models."
    )
    owned_by: str = Field("penstock", description="Shown in /models.")
    wire: Wire | None = Field(
        None,
        description="The API that providers of kind openai serve the model by: chat completions or responses. By "
        "default chat; at OpenAI and Azure the one that the caller speaks.",
    )
    drop: tuple[str, ...] = Field(
        (),
        description="Fields of requests that are left out where the provider's API has no word for them, such as "
        "logit_bias or tools.web_search. Others are refused.",
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _expand_provider_names(cls, targets: Any) -> Any:
        if not isinstance(targets, list | tuple):
            return targets
        return [{"provider": target} if isinstance(target, str) else target for target in targets]


class Plan(Section):
    """Limits of the keys on the plan. One left out is no limit."""

    requests_per_minute: Count | None = Field(None, description="GCRA: a burst of one minute's worth, refilled evenly.")
    tokens_per_minute: Count | None = Field(
        None, description="GCRA, prompt and completion; an estimate until the call ends."
    )
    requests_per_day: Count | None = Field(None, description="UTC day.")
    tokens_per_day: Count | None = Field(None, description="UTC day.")
    requests_per_month: Count | None = Field(None, description="UTC month.")
    tokens_per_month: Count | None = Field(None, description="UTC month.")
    budget_usd_per_day: Decimal | None = Field(None, gt=0, le=1_000_000, description="UTC day, in US dollars.")
    budget_usd_per_month: Decimal | None = Field(None, gt=0, le=1_000_000, description="UTC month, in US dollars.")
    concurrency: Count | None = Field(None, le=100_000, description="Calls running at once.")
    priority: int = Field(1, ge=1, le=1000, description="Share of the queue's workers, relative to other keys.")

    @property
    def has_budget(self) -> bool:
        """True if the plan limits money."""
        return self.budget_usd_per_day is not None or self.budget_usd_per_month is not None


class CacheConfig(Section):
    """The response cache."""

    enabled: bool = Field(True, description="Answers to calls with temperature ≤ max_temperature are kept.")
    ttl_s: int = Field(3600, ge=1, le=2_592_000, description="How long.")
    max_temperature: float = Field(
        0.3, ge=0, le=2, description="A call without a temperature counts as 1 and is not cached."
    )
    shared: bool = Field(False, description="True: keys share answers. False: each key has its own.")
    max_entry_bytes: int = Field(262_144, ge=1024, le=8_388_608, description="Longer answers are not kept.")
    flight_wait_s: Seconds = Field(
        30.0, description="The longest that a call waits for the answer to an identical one of the same key."
    )


class RetryConfig(Section):
    """Retries and the circuit breaker."""

    max_attempts: int = Field(3, ge=1, le=10, description="Upstream attempts for one call, the first included.")
    backoff_s: float = Field(0.2, ge=0, le=10, description="Before the same target is tried again; doubled each time.")
    breaker_threshold: int = Field(5, ge=1, le=1000, description="Failures in a row that open a target's breaker.")
    breaker_cooldown_s: Seconds = Field(30.0, description="How long it stays open before one call probes.")


class ReserveConfig(Section):
    """Reservations on limits, from admission to settlement."""

    completion_tokens: int = Field(
        512, ge=0, le=1_000_000, description="Reserved on token limits when the caller sets no max_tokens."
    )
    worker_timeout_s: Seconds = Field(
        15.0, description="A worker that shows no sign of life for this long has lost its calls."
    )


class GatewayConfig(Section):
    """The whole of `config/gateway.yaml`."""

    providers: dict[Name, ProviderConfig] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(min_length=1)
    default_model: Name | None = Field(
        None,
        description="For chat calls that name none; may be `auto`. By default, and while it cannot be served or the "
        "key may not use it: the first model of the file that can and may.",
    )
    plans: dict[Name, Plan] = Field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    retry: RetryConfig = RetryConfig()
    cache: CacheConfig = CacheConfig()
    server: ServerConfig = ServerConfig()
    reserve: ReserveConfig = ReserveConfig()
    queue: features.QueueConfig = features.QueueConfig()
    batch: features.BatchConfig = features.BatchConfig()
    reasoning: features.ReasoningConfig = features.ReasoningConfig()
    responses: features.ResponsesConfig = features.ResponsesConfig()
    support: features.SupportConfig = features.SupportConfig()
    smart: features.SmartConfig = features.SmartConfig()
    optimizer: features.OptimizerConfig = features.OptimizerConfig()

    @model_validator(mode="before")
    @classmethod
    def _with_default_plan(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("plans") or {}, dict):
            data = {**data, "plans": {DEFAULT_PLAN: {}, **(data.get("plans") or {})}}
        return data

    def plan_of(self, name: str) -> Plan | None:
        """Returns the plan `name`; None for one that is not in the file.

        Keys on such a plan are refused (`gateway.plans`): nobody is served without the limits that were meant.
        """
        return self.plans.get(name)
