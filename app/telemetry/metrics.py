"""Prometheus metrics: one method an event, right across several workers and their restarts.

Under gunicorn each worker writes its figures to files below PROMETHEUS_MULTIPROC_DIR, and a scrape adds them up; a
dead worker's counters stay in their files, so that no sum runs backwards, and its gauges go. Where the disk is full,
new series are missing from scrapes until it has room; nothing else suffers. Labels are
bounded: model and provider come from the configuration, everything else from a closed list.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app.config.gateway import GatewayConfig
from app.domain.usage import Usage
from app.telemetry import archive, series
from app.telemetry.buffer import MetricBuffer
from app.telemetry.mmap_files import use_preallocated_files
from app.telemetry.system import process_figures

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
_BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
log = structlog.get_logger()

# Model, provider and status (ok, error or aborted) of a call that ended. A bare tuple: one is made for each call, and
# a NamedTuple takes 0.2 µs more.
CallLabels = tuple[str, str, str]


class _CallChildren(NamedTuple):
    """prometheus_client's children for calls of the same labels: bound once, not nine times a call."""

    calls: Counter
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
        use_preallocated_files()
        self._buffer = MetricBuffer(in_background="PROMETHEUS_MULTIPROC_DIR" in os.environ)
        self._children: dict[tuple[Any, ...], Any] = {}
        self._call_children: dict[CallLabels, _CallChildren] = {}
        registry = self._registry = CollectorRegistry()
        self._calls = series.CALLS.register(registry)
        self._call_duration = series.CALL_DURATION.register(registry)
        self._time_to_first_token = series.TIME_TO_FIRST_TOKEN.register(registry)
        self._tokens = series.TOKENS.register(registry)
        self._cost = series.COST.register(registry)
        self._call_cost = series.CALL_COST.register(registry)
        self._active_calls = series.ACTIVE_CALLS.register(registry)
        self._rate_limited = series.RATE_LIMITED.register(registry)
        self._budget_near = series.BUDGET_NEAR.register(registry)
        self._cache_results = series.CACHE_RESULTS.register(registry)
        self._upstream_errors = series.UPSTREAM_ERRORS.register(registry)
        self._breaker_state = series.BREAKER_STATE.register(registry)
        self._settlements_held = series.SETTLEMENTS_HELD.register(registry)
        self._settlements_dropped = series.SETTLEMENTS_DROPPED.register(registry)
        self._http_duration = series.HTTP_DURATION.register(registry)
        # Alerts ask these for their increase, and Prometheus sees none from nothing to the first one.
        for plan in self._plans:
            self._child(self._budget_near, plan)
        for provider in config.providers:
            self._child(self._upstream_errors, provider, "auth")

    def observe_call(
        self, labels: CallLabels, usage: Usage, *, cost_nanousd: int, duration_s: float, ttft_s: float | None
    ) -> None:
        """Records a model call that ended."""
        children = self._call_children.get(labels) or self._bind_call(labels)
        inc, observe = self._buffer.inc, self._buffer.observe
        inc(children.calls)
        observe(children.duration, duration_s)
        if ttft_s is not None:
            observe(children.first_token, ttft_s)
        if usage.prompt_tokens:
            inc(children.prompt, usage.prompt_tokens)
        if usage.completion_tokens:
            inc(children.completion, usage.completion_tokens)
        if usage.cached_tokens:
            inc(children.cached, usage.cached_tokens)
        if usage.reasoning_tokens:
            inc(children.reasoning, usage.reasoning_tokens)
        if cost_nanousd:
            inc(children.cost, cost_nanousd / 1e9)
            observe(children.call_cost, cost_nanousd / 1e9)

    def add_active_calls(self, delta: int) -> None:
        """Records that a call began (+1) or ended (-1)."""
        self._buffer.inc(self._active_calls, delta)

    def count_rate_limited(self, limit: str) -> None:
        """Records a refused call. `limit` is the name of a plan's field."""
        self._buffer.inc(self._child(self._rate_limited, limit))

    def count_budget_near(self, plan: str) -> None:
        """Records an admitted call that leaves less than a fifth of its key's budget."""
        self._buffer.inc(self._child(self._budget_near, plan if plan in self._plans else "other"))

    def count_cache_result(self, result: str) -> None:
        """Records a call's use of the cache. `result`: hit, miss or bypass."""
        self._buffer.inc(self._child(self._cache_results, result))

    def count_upstream_error(self, provider: str, kind: str) -> None:
        """Records a failed attempt. `kind` is `UpstreamError`'s."""
        known_provider = provider if provider in self._providers else "other"
        known_kind = kind if kind in _UPSTREAM_KINDS else "other"
        self._buffer.inc(self._child(self._upstream_errors, known_provider, known_kind))

    def set_breaker_state(self, target: str, state: str) -> None:
        """Records a breaker's state. `target` is a configured `provider/model`; `state`: closed, half_open or open."""
        self._child(self._breaker_state, target).set(_BREAKER_STATES[state])

    def add_settlements_held(self, delta: int) -> None:
        """Records settlements that are kept in memory (more), or were written (fewer)."""
        self._buffer.inc(self._settlements_held, delta)

    def count_settlements_dropped(self, count: int) -> None:
        """Records settlements that were given up."""
        self._buffer.inc(self._settlements_dropped, count)

    def observe_http(self, route: str, method: str, status: int, duration_s: float) -> None:
        """Records an answered HTTP request. `route` is the rule that matched, never the path."""
        known = method if method in _METHODS else "OTHER"
        self._buffer.observe(self._child(self._http_duration, route, known, str(status)), duration_s)

    def render(self, shared: Mapping[str, float]) -> bytes:
        """Returns the text of a scrape. `shared` are values that belong to no worker, read for this scrape."""
        self._buffer.flush()
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        at_scrape = CollectorRegistry()
        at_scrape.register(_ValuesCollector({**shared, **process_figures(siblings=directory is not None)}))
        if directory is None:
            return generate_latest(self._registry) + generate_latest(at_scrape)
        merged = CollectorRegistry()
        multiprocess.MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
        with archive.shared_lock(Path(directory)):
            return generate_latest(merged) + generate_latest(at_scrape)

    def _bind_call(self, labels: CallLabels) -> _CallChildren:
        """Returns the children for `labels`. Names that are not configured share those of "other", and are not kept."""
        model, provider, status = labels
        model = model if model in self._models else "other"
        provider = provider if provider in self._providers else "other"
        known = (model, provider, status)
        children = self._call_children.get(known)
        if children is None:
            prompt, completion, cached, reasoning = (
                self._tokens.labels(model, kind) for kind in ("prompt", "completion", "cached", "reasoning")
            )
            children = self._call_children[known] = _CallChildren(
                calls=self._calls.labels(model, provider, status),
                duration=self._call_duration.labels(model, provider),
                first_token=self._time_to_first_token.labels(model),
                prompt=prompt,
                completion=completion,
                cached=cached,
                reasoning=reasoning,
                cost=self._cost.labels(model, provider),
                call_cost=self._call_cost.labels(model),
            )
        return children

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child


class _ValuesCollector(Collector):
    """A collector of values that were read for one scrape, by their names."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for name, value in self._values.items():
            family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield family(name, "Read at the time of the scrape.", value=value)


def remove_worker(pid: int) -> None:
    """Drops a dead worker's gauges, and adds its counters to the archive. For gunicorn's `child_exit`."""
    try:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        with archive.exclusive_lock(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])) as directory:
            archive.fold(directory, pid)
    except Exception:  # in gunicorn's master it would end the gateway; files that are left are still counted
        log.exception("worker_figures_not_folded", worker_pid=pid)
