"""The schema of `config/gateway.yaml`: every field with its bounds, default and meaning."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from app.config import features
from app.config.providers import ProviderConfig, Timeouts
from app.config.section import Count, Name, Seconds, Section
from app.config.server import ServerConfig
from app.domain.identity import DEFAULT_PLAN

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
