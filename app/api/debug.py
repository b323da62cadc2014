"""`GET /debug`: the facts that belong into a bug report. Never a secret."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gevent
import psutil

from app.api import context
from app.api.shared_metrics import shared_metrics
from app.errors import StoreUnavailable
from app.services import Services
from app.settings import VERSION
from app.store.redis.url import without_secrets
from app.telemetry.system import System

_STARTED = time.monotonic()
_LIBRARIES = ("flask", "gunicorn", "gevent", "redis", "sqlalchemy", "msgspec", "openai", "genai-prices")
_CPU_SAMPLE_S = 0.2
_MB = 1024 * 1024


def debug() -> dict[str, Any]:
    """Returns versions, the machine, pools, breakers, queue."""
    services = context.services()
    return {
        "environment": _environment(services),
        "system": _system(services.system),
        "application": _application(services),
    }


def _environment(services: Services) -> dict[str, Any]:
    providers = {
        name: {"kind": provider.kind, "key_set": provider.has_key}
        for name, provider in services.settings.config.providers.items()
    }
    return {
        "version": VERSION,
        "env": services.settings.env,
        "python": platform.python_version(),
        "python_version": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "openai_key_set": providers.get("openai", {}).get("key_set", False),
        "providers": providers,
        "redis_url": without_secrets(services.settings.redis_url),
    }


def _system(system: System) -> dict[str, Any]:
    memory, disk = system.memory(), system.disk()
    disk_percent = None if disk is None else _percent(disk[0], disk[1])
    return {
        "cpu_count": psutil.cpu_count(),
        "cpu_percent": _cpu_percent(system),
        "load": os.getloadavg(),
        "memory_usage_mb": round(memory.used / _MB, 1),
        "memory_percent": _percent(memory.used, memory.limit),
        "memory_available_bytes": memory.limit - memory.used,
        "disk_percent": disk_percent,
        "disk_usage_percent": disk_percent,
    }


def _application(services: Services) -> dict[str, Any]:
    process = psutil.Process()
    shared = shared_metrics(services)
    return {
        "pid": process.pid,
        "uptime_s": round(time.monotonic() - _STARTED, 1),
        "rss_bytes": process.memory_info().rss,
        "worker_id": services.heartbeat.worker_id,
        "active_conversations": _none_if_unavailable(services.support.open_conversations),
        "queue_size": shared.get("llm_queue_size"),
        "redis": {"reachable": "redis_memory_used_bytes" in shared, **services.redis.stats()},
        "database": services.database.stats(),
        "providers": {name: provider.stats() for name, provider in services.providers.items()},
        "breakers": services.router.states(),
        "shared": shared,
        "models": list(services.settings.config.models),
        "plans": list(services.settings.config.plans),
    }


def _cpu_percent(system: System) -> float:
    """Returns the use of the cores that the process may use, over a moment."""
    before, started = system.cpu(), time.monotonic()
    gevent.sleep(_CPU_SAMPLE_S)
    used_s = system.cpu().seconds - before.seconds
    return _percent(used_s, before.cores * (time.monotonic() - started))


def _percent(part: float, whole: float) -> float:
    return round(min(max(100 * part / whole, 0.0), 100.0), 1) if whole else 0.0


def _none_if_unavailable(read: Callable[[], int]) -> int | None:
    try:
        return read()
    except StoreUnavailable:
        return None
