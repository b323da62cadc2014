"""Provider checks: whether each one answers and takes our key, asked seldom however often somebody wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from gevent.lock import BoundedSemaphore

from app.config.gateway import GatewayConfig
from app.errors import UpstreamError
from app.providers.base import Provider

_KEEP_S = 15.0


class ProviderHealth:
    """A check is a request to the vendor, at most one in `keep_s`: who asks meanwhile gets its result."""

    def __init__(
        self,
        *,
        config: GatewayConfig,
        providers: Mapping[str, Provider],
        keep_s: float = _KEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._without_key = frozenset(name for name, provider in config.providers.items() if provider.has_no_key)
        self._providers = providers
        self._keep_s = keep_s
        self._clock = clock
        self._found: dict[str, tuple[float, UpstreamError | None]] = {}
        self._turns = {name: BoundedSemaphore(1) for name in providers}

    def check(self, name: str, timeout_s: float) -> dict[str, Any]:
        """What there is to tell of a provider that is well, or has no key. Raises `UpstreamError` for any other one."""
        if name in self._without_key:
            return {"status": "not_configured", "reason": "its key is not set"}
        with self._turns[name]:
            found = self._found.get(name)
            if found is None or self._clock() - found[0] >= self._keep_s:
                found = self._found[name] = (self._clock(), self._failure(name, timeout_s))
        checked_at, failure = found
        if failure is not None:
            raise failure.with_traceback(None)
        return {"checked_seconds_ago": round(self._clock() - checked_at, 1)}

    def _failure(self, name: str, timeout_s: float) -> UpstreamError | None:
        try:
            self._providers[name].check(timeout_s)
        except UpstreamError as exc:
            return exc
        return None
