"""Definitions of the Prometheus series: the name, help text, labels and buckets of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Series(Generic[M]):
    """One series of the contract. `options` are those of prometheus_client's class `kind`."""

    kind: type[M]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def register(self, registry: CollectorRegistry) -> M:
        """Creates the collector in `registry`."""
        return self.kind(self.name, self.help, self.labels, registry=registry, **self.options)


# The buckets are OpenTelemetry's (GenAI semantic conventions, gen_ai.client.operation.duration and
# …time_to_first_token).
CALL_DURATION = Series(
    Histogram,
    "llm_request_duration_seconds",
    "From admission to the end of the answer.",
    ("model", "provider"),
    {"buckets": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)},
)
TIME_TO_FIRST_TOKEN = Series(
    Histogram,
    "llm_time_to_first_token_seconds",
    "From admission to a stream's first chunk.",
    ("model",),
    {"buckets": (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)},
)
CALLS = Series(Counter, "llm_requests_total", "Model calls that ended.", ("model", "provider", "status"))
TOKENS = Series(
    Counter, "llm_tokens_total", "Tokens; cached is a part of prompt, reasoning of completion.", ("model", "kind")
)
COST = Series(Counter, "llm_cost_usd_total", "Cost in US dollars.", ("model", "provider"))
CALL_COST = Series(
    Histogram,
    "llm_cost_per_request_usd",
    "Cost of a call in US dollars.",
    ("model",),
    {"buckets": (0.00001, 0.0001, 0.001, 0.01, 0.1, 1, 10)},
)
ACTIVE_CALLS = Series(
    Gauge, "llm_active_requests", "Model calls that are running.", options={"multiprocess_mode": "livesum"}
)
RATE_LIMITED = Series(Counter, "llm_rate_limited_total", "Calls refused by a limit.", ("limit",))
BUDGET_NEAR = Series(
    Counter, "llm_budget_near_total", "Calls of keys with less than a fifth of a budget left.", ("plan",)
)
CACHE_RESULTS = Series(Counter, "llm_cache_requests_total", "Calls by what the cache did.", ("result",))
UPSTREAM_ERRORS = Series(Counter, "llm_upstream_errors_total", "Failed attempts.", ("provider", "kind"))
BREAKER_STATE = Series(
    Gauge,
    "llm_breaker_state",
    "0 closed, 1 half open, 2 open: the worst of the workers.",
    ("target",),
    {"multiprocess_mode": "livemax"},
)
SETTLEMENTS_HELD = Series(
    Gauge,
    "llm_settlements_held",
    "Settlements in memory, since neither Redis nor the disk takes them.",
    options={"multiprocess_mode": "livesum"},
)
SETTLEMENTS_DROPPED = Series(Counter, "llm_settlements_dropped_total", "Settlements given up: their calls end as lost.")
HTTP_DURATION = Series(
    Histogram,
    "http_request_duration_seconds",
    "Until the answer's first byte.",
    ("route", "method", "status"),
    {"buckets": (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)},
)
