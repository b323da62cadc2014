"""Health checks of the providers: each must answer and accept our key. Results are cached for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gevent.lock import BoundedSemaphore

from app.config.gateway import GatewayConfig
from app.errors import UpstreamError
from app.providers.base import Provider

_CACHED_S = 15.0


class ProviderHealth:
    """A check is a request to the vendor, at most one in `cached_s`; callers in between get its result."""

    def __init__(
        self,
        *,
        config: GatewayConfig,
        providers: Mapping[str, Provider],
        cached_s: float = _CACHED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._without_key = frozenset(name for name, provider in config.providers.items() if provider.has_no_key)
        self._providers = providers
        self._cached_s = cached_s
        self._clock = clock
        self._results: dict[str, tuple[float, UpstreamError | None]] = {}  # when each was checked, and the failure
        self._locks = {name: BoundedSemaphore(1) for name in providers}

    def check(self, name: str, timeout_s: float) -> dict[str, Any]:
        """Returns the details of a provider that is well, or has no key. Raises `UpstreamError` for any other one."""
        if name in self._without_key:
            return {"status": "not_configured", "reason": "its key is not set"}
        with self._locks[name]:
            result = self._results.get(name)
            if result is None or self._clock() - result[0] >= self._cached_s:
                result = self._results[name] = (self._clock(), self._failure(name, timeout_s))
        checked_at, failure = result
        if failure is not None:
            raise failure.with_traceback(None)
        return {"checked_seconds_ago": round(self._clock() - checked_at, 1)}

    def _failure(self, name: str, timeout_s: float) -> UpstreamError | None:
        try:
            self._providers[name].check(timeout_s)
        except UpstreamError as exc:
            return exc
        return None
