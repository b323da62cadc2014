"""Outage detection: tells from the circuit breakers, taken together, when no call would be served."""

from __future__ import annotations

from collections.abc import Iterable

from app.config.gateway import GatewayConfig
from app.gateway.routes import Target

# No breaker refuses more than two callers without refusing everybody.
_MAX_CALLERS = 3


class OutageDetector:
    """The view of one process, as its breakers are.

    The demo model does not count beside a vendor: callers want the vendor's answers. Failures of one caller's calls
    alone are no outage either, unless nobody else has called.
    """

    def __init__(self, config: GatewayConfig, targets: Iterable[Target]) -> None:
        providers = config.providers
        usable = [target for target in targets if not providers[target.provider.name].has_no_key]
        vendors = [target for target in usable if not providers[target.provider.name].is_built_in]
        self._needed = vendors or usable
        self._key_ids: set[str] = set()  # of the first few callers

    def record_caller(self, key_id: str) -> None:
        """Notes that this caller makes calls."""
        if len(self._key_ids) < _MAX_CALLERS:
            self._key_ids.add(key_id)

    def reason(self) -> str:
        """Returns the reason why no call would be served now; "" while one might."""
        if not self._needed:
            return "no provider has its key"
        key_ids = self._key_ids or {""}
        if all(target.breaker.is_open(key_id) for target in self._needed for key_id in key_ids):
            return "every provider keeps failing"
        return ""
