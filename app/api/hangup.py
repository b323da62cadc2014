"""Cancellation of a model call whose client hangs up while it waits for the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from app.api.http import HttpRequest
from app.net.hangup import watch_for_hangup
from app.providers.base import CancelToken

T = TypeVar("T")


def cancelled_on_hangup(http_request: HttpRequest, cancel: CancelToken, call: Callable[[], T]) -> T:
    """Returns the result of `call`. Until then, a hang-up of the client cancels `cancel`."""
    stop_watching = watch_for_hangup(http_request.environ, cancel.cancel)
    try:
        return call()
    finally:
        stop_watching()
