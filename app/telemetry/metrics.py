"""Prometheus series: names, labels and buckets of the contract, right across several workers and their restarts.

Under gunicorn each worker writes its figures to files below PROMETHEUS_MULTIPROC_DIR, and a scrape adds them up; a
dead worker's counters stay in their files, so that no sum runs backwards, and its gauges go. Where the disk is full,
new series are missing from scrapes until it has room; nothing else suffers. Labels are
bounded: model and provider come from the configuration, everything else from a closed list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from app.config.gateway import GatewayConfig
from app.telemetry import archive
from app.telemetry.buffer import MetricBuffer
from app.telemetry.mmap_files import preallocate
from app.telemetry.system import process_figures

# OpenTelemetry's GenAI buckets (semantic conventions, gen_ai.client.operation.duration and …time_to_first_token).
_DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_COST = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1, 10)
_HTTP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_UPSTREAM_KINDS = frozenset(
    {
        "connect",
        "tls",
        "resolve",
        "timeout_connect",
        "timeout_first_byte",
        "timeout_idle",
        "timeout_total",
        "status_4xx",
        "status_5xx",
        "rate_limited",
        "auth",
        "not_found",
        "bad_body",
        "cut",
        "stream_error",
        "rejected",
        "breaker_open",
        "closed",
        "saturated",
    }
)
_STATES = {"closed": 0, "half_open": 1, "open": 2}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
log = structlog.get_logger()
M = TypeVar("M", bound=MetricWrapperBase)


class _OfCall(NamedTuple):
    """The children that calls of one model, provider and status change: found once, not nine times a call."""

    requests: Counter
    duration: Histogram
    first_token: Histogram
    prompt: Counter
    completion: Counter
    cached: Counter
    reasoning: Counter
    cost: Counter
    call_cost: Histogram


class Metrics:
    """The series of one process. Each method is one event; children are bound once and kept."""

    def __init__(self, *, config: GatewayConfig) -> None:
        self._models = frozenset(config.models)
        self._providers = frozenset(config.providers) | {"cache"}
        self._plans = frozenset(config.plans)
        preallocate()
        self._registry = CollectorRegistry()
        self._buffer = MetricBuffer(in_background="PROMETHEUS_MULTIPROC_DIR" in os.environ)
        self._children: dict[tuple[Any, ...], Any] = {}
        self._of_calls: dict[tuple[str, str, str], _OfCall] = {}
        self._requests = self._new(
            Counter, "llm_requests_total", "Model calls that ended.", "model", "provider", "status"
        )
        self._duration = self._new(
            Histogram,
            "llm_request_duration_seconds",
            "From admission to the end of the answer.",
            "model",
            "provider",
            buckets=_DURATION,
        )
        self._first_token = self._new(
            Histogram,
            "llm_time_to_first_token_seconds",
            "From admission to a stream's first chunk.",
            "model",
            buckets=_FIRST_TOKEN,
        )
        self._tokens = self._new(
            Counter, "llm_tokens_total", "Tokens; cached is a part of prompt, reasoning of completion.", "model", "kind"
        )
        self._cost = self._new(Counter, "llm_cost_usd_total", "Cost in US dollars.", "model", "provider")
        self._call_cost = self._new(
            Histogram, "llm_cost_per_request_usd", "Cost of a call in US dollars.", "model", buckets=_COST
        )
        self._active = self._new(
            Gauge, "llm_active_requests", "Model calls that are running.", multiprocess_mode="livesum"
        )
        self._limited = self._new(Counter, "llm_rate_limited_total", "Calls refused by a limit.", "limit")
        self._near = self._new(
            Counter, "llm_budget_near_total", "Calls of keys with less than a fifth of a budget left.", "plan"
        )
        self._cache = self._new(Counter, "llm_cache_requests_total", "Calls by what the cache did.", "result")
        self._upstream = self._new(Counter, "llm_upstream_errors_total", "Failed attempts.", "provider", "kind")
        self._breaker = self._new(
            Gauge,
            "llm_breaker_state",
            "0 closed, 1 half open, 2 open: the worst of the workers.",
            "target",
            multiprocess_mode="livemax",
        )
        self._held = self._new(
            Gauge,
            "llm_settlements_held",
            "Settlements in memory, since neither Redis nor the disk takes them.",
            multiprocess_mode="livesum",
        )
        self._dropped = self._new(
            Counter, "llm_settlements_dropped_total", "Settlements given up: their calls end as lost."
        )
        self._http = self._new(
            Histogram,
            "http_request_duration_seconds",
            "Until the answer's first byte.",
            "route",
            "method",
            "status",
            buckets=_HTTP,
        )
        # Alerts ask these for their increase, and Prometheus sees none from nothing to the first one.
        for plan in self._plans:
            self._child(self._near, plan)
        for provider in config.providers:
            self._child(self._upstream, provider, "auth")

    def observe_call(
        self,
        *,
        model: str,
        provider: str,
        status: str,
        duration_s: float,
        ttft_s: float | None,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int,
        reasoning_tokens: int,
        cost_nanousd: int,
    ) -> None:
        """A model call ended. `status`: ok, error or aborted."""
        model = model if model in self._models else "other"
        provider = provider if provider in self._providers else "other"
        inc, observe = self._buffer.inc, self._buffer.observe
        found = self._of_calls.get((model, provider, status))
        if found is None:
            found = self._of_calls[model, provider, status] = self._of_call(model, provider, status)
        inc(found.requests)
        observe(found.duration, duration_s)
        if ttft_s is not None:
            observe(found.first_token, ttft_s)
        if prompt_tokens:
            inc(found.prompt, prompt_tokens)
        if completion_tokens:
            inc(found.completion, completion_tokens)
        if cached_tokens:
            inc(found.cached, cached_tokens)
        if reasoning_tokens:
            inc(found.reasoning, reasoning_tokens)
        if cost_nanousd:
            inc(found.cost, cost_nanousd / 1e9)
            observe(found.call_cost, cost_nanousd / 1e9)

    def _of_call(self, model: str, provider: str, status: str) -> _OfCall:
        prompt, completion, cached, reasoning = (
            self._tokens.labels(model, kind) for kind in ("prompt", "completion", "cached", "reasoning")
        )
        return _OfCall(
            requests=self._requests.labels(model, provider, status),
            duration=self._duration.labels(model, provider),
            first_token=self._first_token.labels(model),
            prompt=prompt,
            completion=completion,
            cached=cached,
            reasoning=reasoning,
            cost=self._cost.labels(model, provider),
            call_cost=self._call_cost.labels(model),
        )

    def add_active_calls(self, delta: int) -> None:
        """A call began (+1) or ended (-1)."""
        self._buffer.inc(self._active, delta)

    def count_rate_limited(self, limit: str) -> None:
        """`limit` is the name of a plan's field."""
        self._buffer.inc(self._child(self._limited, limit))

    def count_budget_near(self, plan: str) -> None:
        """A call was admitted that leaves less than a fifth of its key's budget."""
        self._buffer.inc(self._child(self._near, plan if plan in self._plans else "other"))

    def count_cache_result(self, result: str) -> None:
        """`result`: hit, miss or bypass."""
        self._buffer.inc(self._child(self._cache, result))

    def count_upstream_error(self, provider: str, kind: str) -> None:
        known = provider if provider in self._providers else "other"
        self._buffer.inc(self._child(self._upstream, known, kind if kind in _UPSTREAM_KINDS else "other"))

    def set_breaker_state(self, target: str, state: str) -> None:
        """`target` is a configured `provider/model`; `state`: closed, half_open or open."""
        self._child(self._breaker, target).set(_STATES[state])

    def add_settlements_held(self, delta: int) -> None:
        self._buffer.inc(self._held, delta)

    def count_settlements_dropped(self, count: int) -> None:
        self._buffer.inc(self._dropped, count)

    def observe_http(self, route: str, method: str, status: int, duration_s: float) -> None:
        """`route` is the rule that matched, never the path."""
        known = method if method in _METHODS else "OTHER"
        self._buffer.observe(self._child(self._http, route, known, str(status)), duration_s)

    def render(self, now: Mapping[str, float]) -> bytes:
        """The text of a scrape. `now` are figures that belong to no worker, read for this scrape."""
        self._buffer.flush()
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        shared = CollectorRegistry()
        shared.register(_Now({**now, **process_figures(siblings=directory is not None)}))
        if directory is None:
            return generate_latest(self._registry) + generate_latest(shared)
        merged = CollectorRegistry()
        multiprocess.MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
        with archive.reading(Path(directory)):
            return generate_latest(merged) + generate_latest(shared)

    def _new(self, kind: type[M], name: str, text: str, *labels: str, **options: Any) -> M:
        return kind(name, text, labels, registry=self._registry, **options)

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child


class _Now(Collector):
    def __init__(self, figures: Mapping[str, float]) -> None:
        self._figures = figures

    def collect(self) -> Any:
        for name, value in self._figures.items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(name, "Read at the time of the scrape.", value=value)


def worker_exited(pid: int) -> None:
    """gunicorn's `child_exit`: a dead worker's gauges go, and its counters into the archive."""
    try:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        with archive.changing(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])) as directory:
            archive.fold(directory, pid)
    except Exception:  # in gunicorn's master it would end the gateway; files that are left are still counted
        log.exception("worker_figures_not_folded", worker_pid=pid)
