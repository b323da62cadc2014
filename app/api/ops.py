"""For operators and their tools: is it alive, would it serve, what does it do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import gevent
from flask import Response, request

from app.api.context import request_id, services
from app.api.errors import error_response
from app.api.shared_metrics import shared_figures
from app.errors import Forbidden, GatewayError, NotReady
from app.net.error_body import error_body, utc_timestamp
from app.services import Services
from app.settings import VERSION
from app.telemetry.metrics import CONTENT_TYPE

_CHECK_S = 2.0
_FULL = 0.8  # as the alert QueueFilling has it


def health() -> dict[str, Any]:
    """Liveness: the process answers. Touches nothing else."""
    return {"status": "healthy", "timestamp": utc_timestamp(), "version": VERSION}


def ready() -> dict[str, Any] | Response:
    """200 only if a call would be served, by this worker; 503 with the reason, also as `reason`."""
    began = time.monotonic()
    reason = _not_ready()
    if reason:
        error = NotReady(f"Not ready: {reason}.", retry_after_s=1)
        answer = error_response(error, request_id())
        body = {**error_body(error, request_id()), "status": "not_ready", "reason": reason}
        return Response(json.dumps(body), answer.status, answer.headers)
    return {"status": "ready", "timestamp": utc_timestamp(), "response_time": _seconds_since(began)}


def _not_ready() -> str:
    if request.environ.get("penstock.draining"):
        return "this worker is about to stop"
    found = services()
    outage = found.router.outage.reason()
    if outage:
        return outage
    for name, check in _at_once(
        {"redis": found.redis.ping, "database": partial(found.database.ping, _CHECK_S)}
    ).items():
        if check["status"] != "healthy":
            return f"{name}: {check['error']}".rstrip(".")
    return ""


def health_detailed() -> tuple[dict[str, Any], int]:
    """Every part, checked at the same time, with timings. 503 when a call could not be served."""
    found = services()
    probes: dict[str, Callable[[], object]] = {
        "redis": found.redis.ping,
        "database": partial(found.database.ping, _CHECK_S),
        "outbox": found.outbox.lag_s,
        "spool": lambda: found.spool.backlog()._asdict(),
        "ledger": lambda: {"dead_letters": found.ledger.count_dead_letters()},
        "queue": lambda: _fullness(found.queue.depth().waiting, found.queue.capacity),
    }
    for name in found.providers:
        probes[f"provider:{name}"] = partial(found.provider_checks.check, name, _CHECK_S)
    checks = _at_once(probes)
    # A provider that nobody wants to use is no failure.
    well = {name: check["status"] in ("healthy", "not_configured") for name, check in checks.items()}
    serves = well["redis"] and well["database"]
    status = "unhealthy" if not serves else "healthy" if all(well.values()) else "degraded"
    body = {"status": status, "timestamp": utc_timestamp(), "version": VERSION, "checks": checks}
    return body, 200 if serves else 503


def _fullness(size: int, capacity: int) -> dict[str, Any]:
    return {
        "status": "degraded" if size >= _FULL * capacity else "healthy",
        "current_size": size,
        "max_size": capacity,
        "utilization_percent": round(100 * size / capacity, 1),
    }


def queue_metrics() -> dict[str, Any]:
    """The async queue, for people and load tests; Prometheus has the same figures as series."""
    found = services()
    depth = found.queue.depth()
    memory, _ = found.redis.memory()
    return {
        "queue_size": depth.waiting,
        "max_queue_size": found.queue.capacity,
        "active_workers": depth.workers,
        "active_requests": depth.running,
        "oldest_seconds": round(depth.oldest_s, 3),
        "redis_memory_usage": memory,
        "redis_connected_clients": found.redis.clients(),
    }


def metrics() -> Response:
    """Prometheus text of all workers. Only for `server.metrics_networks`."""
    found = services()
    _only_from_inside(found)
    for target, state in found.router.states().items():
        found.metrics.set_breaker_state(target, state)
    return Response(found.metrics.render(shared_figures(found) | found.system.figures()), content_type=CONTENT_TYPE)


def _at_once(probes: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
    """Runs all probes at the same time. The finding of each, or that it took too long."""
    running = {name: gevent.spawn(_probe, probe) for name, probe in probes.items()}
    gevent.joinall(list(running.values()), timeout=_CHECK_S + 1)
    late = {"status": "unhealthy", "error": f"no answer within {_CHECK_S + 1:g} s"}
    return {name: greenlet.value or late for name, greenlet in running.items()}


def _probe(probe: Callable[[], object]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        found = probe()
    except GatewayError as exc:
        return {"status": "unhealthy", "error": exc.message, **_timing(began)}
    return {"status": "healthy", **_timing(began), **(found if isinstance(found, dict) else {})}


def _timing(began: float) -> dict[str, float]:
    seconds = _seconds_since(began)
    return {"duration_ms": round(1000 * seconds, 1), "response_time_seconds": seconds}


def _seconds_since(began: float) -> float:
    return round(time.monotonic() - began, 4)


def _only_from_inside(found: Services) -> None:
    networks = found.settings.config.server.metrics_networks
    # Behind a load balancer every caller has a private address. Prometheus comes without a proxy.
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        raise Forbidden("Metrics are for the monitoring network only.")
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        raise Forbidden("Metrics are for the monitoring network only.") from None
    if not any(address in ip_network(network) for network in networks):
        raise Forbidden("Metrics are for the monitoring network only.")
