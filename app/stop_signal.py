"""Stop signal: a flag that SIGTERM and SIGINT set, for a loop that is to end at its next turn."""

from __future__ import annotations

import signal
import time
from typing import Any


class StopSignal:
    """Set by a signal. Not an Event: a handler that interrupts `Event.wait` can deadlock in `Event.set`."""

    def __init__(self) -> None:
        self._stopped = False

    @classmethod
    def by_signal(cls) -> StopSignal:
        """Returns one that SIGTERM and SIGINT set from now on."""
        stop = cls()
        signal.signal(signal.SIGTERM, stop.set)
        signal.signal(signal.SIGINT, stop.set)
        # Which the process that started this one may have held back until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        return stop

    def set(self, *_signal: Any) -> None:
        self._stopped = True

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout: float) -> bool:
        """Waits for the signal, at most `timeout` seconds; returns whether it has come."""
        deadline = time.monotonic() + timeout
        while not self._stopped and (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.05))
        return self._stopped
