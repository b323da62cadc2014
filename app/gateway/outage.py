"""OutageDetector: whether the breakers, all together, say that nobody would be served."""

from __future__ import annotations

from collections.abc import Iterable

from app.config.gateway import GatewayConfig
from app.gateway.routes import Target

# No breaker refuses more than two callers without refusing everybody.
_MOST_CALLERS = 3


class OutageDetector:
    """One process's view, as breakers are one process's.

    The demo model does not count beside a vendor: callers want the vendor's answers. A caller whose calls alone fail is
    no outage either, unless nobody else has called.
    """

    def __init__(self, config: GatewayConfig, targets: Iterable[Target]) -> None:
        providers = config.providers
        usable = [target for target in targets if not providers[target.provider.name].has_no_key]
        vendors = [target for target in usable if providers[target.provider.name].kind != "demo"]
        self._needed = vendors or usable
        self._callers: set[str] = set()  # the first few

    def record_caller(self, caller: str) -> None:
        """`caller`, a key's id, makes a call."""
        if len(self._callers) < _MOST_CALLERS:
            self._callers.add(caller)

    def reason(self) -> str:
        """Why no call would be served now; "" while one might."""
        if not self._needed:
            return "no provider has its key"
        callers = self._callers or {""}
        if all(target.breaker.is_open(caller) for target in self._needed for caller in callers):
            return "every provider keeps failing"
        return ""
