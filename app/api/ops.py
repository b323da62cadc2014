"""Health checks and metrics, for operators and their tools: liveness, readiness, every part's state, Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import gevent
from flask import Response, request

from app.api import context
from app.api.context import request_id
from app.api.errors import error_response
from app.api.shared_metrics import shared_metrics
from app.errors import Forbidden, GatewayError, NotReady
from app.net.environ import DRAINING
from app.net.error_body import error_body, utc_timestamp
from app.services import Services
from app.settings import VERSION
from app.telemetry.metrics import CONTENT_TYPE

_CHECK_TIMEOUT_S = 2.0
_DEGRADED_FULLNESS = 0.8  # as the alert QueueFilling has it


def health() -> dict[str, Any]:
    """Answers, as proof of liveness. Touches nothing else."""
    return {"status": "healthy", "timestamp": utc_timestamp(), "version": VERSION}


def ready() -> dict[str, Any] | Response:
    """Answers 200 only if this worker would serve a call; 503 with the reason, also as `reason`."""
    started = time.monotonic()
    reason = _unready_reason()
    if reason:
        error = NotReady(f"Not ready: {reason}.", retry_after_s=1)
        response = error_response(error, request_id())
        body = {**error_body(error, request_id()), "status": "not_ready", "reason": reason}
        return Response(json.dumps(body), response.status, response.headers)
    return {"status": "ready", "timestamp": utc_timestamp(), "response_time": _seconds_since(started)}


def _unready_reason() -> str:
    """Returns "" if this worker would serve a call."""
    if request.environ.get(DRAINING):
        return "this worker is about to stop"
    services = context.services()
    outage = services.router.outage.reason()
    if outage:
        return outage
    for name, check in _check_all(
        {"redis": services.redis.ping, "database": partial(services.database.ping, _CHECK_TIMEOUT_S)}
    ).items():
        if check["status"] != "healthy":
            return f"{name}: {check['error']}".rstrip(".")
    return ""


def health_detailed() -> tuple[dict[str, Any], int]:
    """Checks every part, all at the same time, with timings. 503 when a call could not be served."""
    services = context.services()
    probes: dict[str, Callable[[], object]] = {
        "redis": services.redis.ping,
        "database": partial(services.database.ping, _CHECK_TIMEOUT_S),
        "outbox": services.outbox.lag_s,
        "spool": lambda: services.spool.backlog()._asdict(),
        "ledger": lambda: {"dead_letters": services.ledger.count_dead_letters()},
        "queue": lambda: _fullness(services.queue.depth().waiting, services.queue.capacity),
    }
    for name in services.providers:
        probes[f"provider:{name}"] = partial(services.provider_health.check, name, _CHECK_TIMEOUT_S)
    checks = _check_all(probes)
    # A provider without a key is no failure.
    healthy = {name: check["status"] in ("healthy", "not_configured") for name, check in checks.items()}
    serves = healthy["redis"] and healthy["database"]
    status = "unhealthy" if not serves else "healthy" if all(healthy.values()) else "degraded"
    body = {"status": status, "timestamp": utc_timestamp(), "version": VERSION, "checks": checks}
    return body, 200 if serves else 503


def _fullness(size: int, capacity: int) -> dict[str, Any]:
    return {
        "status": "degraded" if size >= _DEGRADED_FULLNESS * capacity else "healthy",
        "current_size": size,
        "max_size": capacity,
        "utilization_percent": round(100 * size / capacity, 1),
    }


def queue_metrics() -> dict[str, Any]:
    """Returns the state of the async queue, for people and load tests; Prometheus has the same values as series."""
    services = context.services()
    depth = services.queue.depth()
    memory, _ = services.redis.memory()
    return {
        "queue_size": depth.waiting,
        "max_queue_size": services.queue.capacity,
        "active_workers": depth.workers,
        "active_requests": depth.running,
        "oldest_seconds": round(depth.oldest_s, 3),
        "redis_memory_usage": memory,
        "redis_connected_clients": services.redis.clients(),
    }


def metrics() -> Response:
    """Returns the Prometheus text of all workers. Only for `server.metrics_networks`."""
    services = context.services()
    _check_metrics_network(services)
    for target, state in services.router.states().items():
        services.metrics.set_breaker_state(target, state)
    return Response(
        services.metrics.render(shared_metrics(services) | services.system.figures()),
        content_type=CONTENT_TYPE,
    )


def _check_all(probes: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
    """Runs all probes at the same time. Returns the result of each, or that it took too long."""
    running = {name: gevent.spawn(_probe, probe) for name, probe in probes.items()}
    gevent.joinall(list(running.values()), timeout=_CHECK_TIMEOUT_S + 1)
    timed_out = {"status": "unhealthy", "error": f"no answer within {_CHECK_TIMEOUT_S + 1:g} s"}
    return {name: greenlet.value or timed_out for name, greenlet in running.items()}


def _probe(probe: Callable[[], object]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        result = probe()
    except GatewayError as exc:
        return {"status": "unhealthy", "error": exc.message, **_timing(started)}
    return {"status": "healthy", **_timing(started), **(result if isinstance(result, dict) else {})}


def _timing(started: float) -> dict[str, float]:
    seconds = _seconds_since(started)
    return {"duration_ms": round(1000 * seconds, 1), "response_time_seconds": seconds}


def _seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 4)


def _check_metrics_network(services: Services) -> None:
    networks = services.settings.config.server.metrics_networks
    # Behind a load balancer every caller has a private address. Prometheus comes without a proxy.
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        raise Forbidden("Metrics are for the monitoring network only.")
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        raise Forbidden("Metrics are for the monitoring network only.") from None
    if not any(address in ip_network(network) for network in networks):
        raise Forbidden("Metrics are for the monitoring network only.")
