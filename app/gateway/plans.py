"""The plans of the configuration, and which of them a caller is on. A key on a plan that is not there is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from app.config.gateway import Plan
from app.domain.identity import Caller
from app.errors import Forbidden
from app.gateway.callers import Callers

log = structlog.get_logger()
_LOG_AGAIN_S = 3600.0
_MOST_LOGGED = 10_000


class Plans:
    """Methods raise `Forbidden` for an unknown plan: without its limits nobody is served."""

    def __init__(self, plans: Mapping[str, Plan], *, callers: Callers, clock: Callable[[], float]) -> None:
        self._plans = plans
        self._callers = callers
        self._clock = clock
        self._log_again: dict[str, float] = {}  # by key id

    def plan_of(self, caller: Caller) -> Plan:
        return self._plans[self.verify(caller).plan]

    def verify(self, caller: Caller) -> Caller:
        """`caller`, read anew if its plan is unknown. Raises what `Callers.refresh` raises, too."""
        if caller.plan in self._plans:
            return caller
        if caller.record:  # remembered: perhaps it has another plan by now
            caller = self._callers.refresh(caller.key_hash)
            if caller.plan in self._plans:
                return caller
        self._log(caller)
        raise Forbidden("This API key is on a plan that this gateway does not know. Whoever runs it can add the plan.")

    def _log(self, caller: Caller) -> None:
        """Once an hour a key: a client that goes on calling must not fill the log."""
        now = self._clock()
        if now < self._log_again.get(caller.key_id, 0.0):
            return
        if len(self._log_again) >= _MOST_LOGGED:
            self._log_again.clear()
        self._log_again[caller.key_id] = now + _LOG_AGAIN_S
        log.error("plan_unknown", key_id=caller.key_id, plan=caller.plan)
