"""For operators and their tools: is it alive, would it serve, what does it do, what is it made of."""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Callable
from importlib.metadata import version
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import gevent
import psutil
from flask import Blueprint, Response, request

from app.api.context import require, services
from app.api.errors import utc_timestamp
from app.domain.identity import Scope
from app.errors import Forbidden, GatewayError, NotReady, StoreUnavailable
from app.services import Services
from app.settings import VERSION
from app.telemetry.metrics import CONTENT_TYPE

bp = Blueprint("ops", __name__)
root = Blueprint("ops_root", __name__)
_STARTED = time.monotonic()
_CHECK_S = 2.0
_LIBRARIES = ("flask", "gunicorn", "gevent", "redis", "sqlalchemy", "msgspec", "openai", "genai-prices")


@root.get("/health")
@root.get("/healthz")
@bp.get("/health")
def health() -> dict[str, Any]:
    """Liveness: the process answers. Touches nothing else."""
    return {"status": "healthy", "timestamp": utc_timestamp(), "version": VERSION}


@root.get("/ready")
@bp.get("/ready")
def ready() -> dict[str, Any]:
    """200 only if a call would be served. Raises `NotReady` with the reason."""
    if request.environ.get("penstock.draining"):
        raise NotReady("Not ready: this worker is about to stop.", retry_after_s=1)
    found = services()
    try:
        found.redis.ping()
        found.database.ping(_CHECK_S)
    except StoreUnavailable as exc:
        raise NotReady(f"Not ready: {exc.message}", retry_after_s=1) from exc
    return {"status": "ready", "timestamp": utc_timestamp()}


@root.get("/health/detailed")
@bp.get("/health/detailed")
@require(Scope.ADMIN)
def health_detailed() -> tuple[dict[str, Any], int]:
    """Every part, checked at the same time, with timings. 503 when a call could not be served."""
    found = services()
    probes: dict[str, Callable[[], object]] = {
        "redis": found.redis.ping,
        "database": lambda: found.database.ping(_CHECK_S),
        "outbox": found.outbox.lag_s,
        "spool": lambda: found.spool.backlog()._asdict(),
        "ledger": lambda: {"dead_letters": found.ledger.dead_letters()},
        "queue": found.queue.depth,
    }
    for name, provider in found.providers.items():
        probes[f"provider:{name}"] = lambda provider=provider: provider.check(_CHECK_S)  # type: ignore[misc]
    running = {name: gevent.spawn(_probe, probe) for name, probe in probes.items()}
    gevent.joinall(list(running.values()), timeout=_CHECK_S + 1)
    late = {"status": "unhealthy", "error": "no answer in time"}
    checks = {name: greenlet.value or late for name, greenlet in running.items()}
    healthy = {name: check["status"] == "healthy" for name, check in checks.items()}
    serves = healthy["redis"] and healthy["database"]
    status = "unhealthy" if not serves else "healthy" if all(healthy.values()) else "degraded"
    body = {"status": status, "timestamp": utc_timestamp(), "version": VERSION, "checks": checks}
    return body, 200 if serves else 503


@bp.get("/queue/metrics")
@require(Scope.ADMIN)
def queue_metrics() -> dict[str, Any]:
    """The async queue, for people and load tests; Prometheus has the same figures as series."""
    found = services()
    depth = found.queue.depth()
    memory, _ = found.redis.memory()
    return {
        "queue_size": depth.waiting, "max_queue_size": found.queue.capacity, "active_workers": depth.workers,
        "active_requests": depth.running, "oldest_seconds": round(depth.oldest_s, 3),
        "redis_memory_usage": memory, "redis_connected_clients": found.redis.clients(),
    }  # fmt: skip


@root.get("/metrics")
def metrics() -> Response:
    """Prometheus text of all workers. Only for `server.metrics_networks`."""
    found = services()
    _only_from_inside(found)
    for target, state in found.router.states().items():
        found.metrics.breaker(target, state)
    return Response(found.metrics.render(_shared_figures(found)), content_type=CONTENT_TYPE)


@root.get("/debug")
@bp.get("/debug")
@require(Scope.ADMIN)
def debug() -> dict[str, Any]:
    """What one would ask for in a bug report. Never a secret."""
    found = services()
    process = psutil.Process()
    memory = psutil.virtual_memory()
    return {
        "environment": {
            "version": VERSION, "env": found.settings.env, "python": platform.python_version(),
            "libraries": {name: version(name) for name in _LIBRARIES},
        },
        "system": {
            "cpu_count": psutil.cpu_count(), "load": os.getloadavg(), "memory_percent": memory.percent,
            "memory_available_bytes": memory.available, "disk_percent": psutil.disk_usage("/").percent,
        },
        "application": {
            "pid": process.pid, "uptime_s": round(time.monotonic() - _STARTED, 1),
            "rss_bytes": process.memory_info().rss, "worker_id": found.presence.worker_id,
            "redis": found.redis.stats(), "database": found.database.stats(),
            "providers": {name: provider.stats() for name, provider in found.providers.items()},
            "breakers": found.router.states(), "shared": _shared_figures(found),
            "models": list(found.settings.config.models), "plans": list(found.settings.config.plans),
        },
    }  # fmt: skip


def _probe(probe: Callable[[], object]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        found = probe()
    except GatewayError as exc:
        return {"status": "unhealthy", "error": exc.message, "duration_ms": _ms_since(started)}
    return {"status": "healthy", "duration_ms": _ms_since(started), **(found if isinstance(found, dict) else {})}


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)


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


def _shared_figures(found: Services) -> dict[str, float]:
    """Figures of the whole installation. What cannot be read is left out, so that the scrape itself never fails."""
    figures: dict[str, float] = {}
    try:
        used, most = found.redis.memory()
        figures |= {"redis_memory_used_bytes": used, "redis_memory_max_bytes": most}
        depth = found.queue.depth()
        figures |= {
            "llm_queue_size": depth.waiting, "llm_queue_capacity": found.queue.capacity,
            "llm_queue_active_requests": depth.running, "llm_queue_oldest_seconds": depth.oldest_s,
            "llm_queue_workers": depth.workers, "llm_queue_slots": depth.slots,
        }  # fmt: skip
        figures |= {"llm_outbox_lag_seconds": found.outbox.lag_s(), "llm_outbox_rows": found.outbox.depth()}
    except StoreUnavailable:
        pass  # its absence is an alert of its own
    try:
        figures["llm_dead_letters"] = found.ledger.dead_letters()
    except StoreUnavailable:
        pass  # calls go on without the database, and rows wait
    backlog = found.spool.backlog()
    figures |= {
        "llm_spool_files": backlog.files, "llm_spool_bytes": backlog.bytes,
        "llm_spool_refused_files": backlog.refused_files,
    }  # fmt: skip
    expires = _expires(found.settings.tls_certificate)
    if expires is not None:
        figures["tls_certificate_expiry_timestamp_seconds"] = expires
    return figures


def _expires(certificate: Path | None) -> float | None:
    """When the first certificate in the PEM file ends, in Unix seconds."""
    if certificate is None:
        return None
    try:
        end: str = ssl._ssl._test_decode_cert(str(certificate))["notAfter"]  # type: ignore[attr-defined]
    except (OSError, KeyError):
        return None
    return float(ssl.cert_time_to_seconds(end))
