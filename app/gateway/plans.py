"""Plans: finds the plan that a caller is on. A key on a plan that is not in the configuration is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.errors import Forbidden
from app.gateway.callers import Callers

log = structlog.get_logger()
_LOG_INTERVAL_S = 3600.0
_MAX_LOGGED_KEYS = 10_000


class Plans:
    """The configured plans by name. Methods raise `Forbidden` for an unknown one: nobody is served without limits."""

    def __init__(self, plans: Mapping[str, Plan], *, callers: Callers, clock: Callable[[], float]) -> None:
        self._plans = plans
        self._callers = callers
        self._clock = clock
        self._next_log_at: dict[str, float] = {}  # by key id

    def plan_of(self, caller: Caller) -> Plan:
        """Returns the caller's plan. Raises as `verify` does."""
        return self._plans[self.verify(caller).plan]

    def verify(self, caller: Caller) -> Caller:
        """Returns `caller`, read anew if its plan is unknown. Raises what `Callers.refresh` raises, too."""
        if caller.plan in self._plans:
            return caller
        if caller.record:  # from the cache: the key may be on another plan by now
            caller = self._callers.refresh(caller.key_hash)
            if caller.plan in self._plans:
                return caller
        self._log(caller)
        raise Forbidden("This API key is on a plan that this gateway does not know. Whoever runs it can add the plan.")

    def _log(self, caller: Caller) -> None:
        """Logs an unknown plan once an hour for each key: a client that goes on calling must not fill the log."""
        now = self._clock()
        if now < self._next_log_at.get(caller.key_id, 0.0):
            return
        if len(self._next_log_at) >= _MAX_LOGGED_KEYS:
            self._next_log_at.clear()
        self._next_log_at[caller.key_id] = now + _LOG_INTERVAL_S
        log.error("plan_unknown", key_id=caller.key_id, plan=caller.plan)
