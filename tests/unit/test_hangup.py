"""A client that hangs up is noticed in each of its calls, and in no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from app.api.errors import error_response
from app.errors import ClientGone
from app.net.hangup import HangupWatcher, watch_for_hangup
from app.providers.base import CancelToken


@pytest.fixture
def ends() -> Iterator[tuple[Any, Any]]:
    """The server's end of a connection, and the client's."""
    server, client = socket.socketpair()
    yield server, client
    server.close()
    client.close()


def test_a_hang_up_cancels_the_call_that_runs_and_not_the_one_before(ends: tuple[Any, Any]) -> None:
    server, client = ends
    hangup = HangupWatcher(server)
    first, second = CancelToken(), CancelToken()
    environ = {"penstock.hangup": hangup, "gunicorn.socket": server}
    watch_for_hangup(environ, first.cancel)()
    watch_for_hangup(environ, second.cancel)
    client.close()
    gevent.sleep(0.01)
    assert (first.cancelled, second.cancelled) == (False, True)
    hangup.close()


def test_the_answer_to_a_call_that_was_hung_up_on_is_not_a_server_error() -> None:
    begun: list[str] = []
    error_response(ClientGone("The client hung up."), "req_1").send(lambda status, headers: begun.append(status))
    assert begun == ["499 Client Closed Request"]


def test_a_hang_up_between_two_calls_cancels_the_next_one(ends: tuple[Any, Any]) -> None:
    server, client = ends
    hangup = HangupWatcher(server)
    stop = hangup.watch(CancelToken().cancel)
    stop()
    stop()
    client.close()
    following = CancelToken()
    hangup.watch(following.cancel)
    gevent.sleep(0.01)
    assert following.cancelled
    hangup.close()


def test_a_request_that_comes_early_is_no_hang_up(ends: tuple[Any, Any]) -> None:
    server, client = ends
    hangup = HangupWatcher(server)
    call = CancelToken()
    hangup.watch(call.cancel)
    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")
    gevent.sleep(0.01)
    assert not call.cancelled
    assert server.recv(4) == b"POST", "it is still there to be read"
    hangup.close()


def test_without_a_kept_watcher_each_call_has_its_own(ends: tuple[Any, Any]) -> None:
    server, client = ends
    call = CancelToken()
    stop = watch_for_hangup({"gunicorn.socket": server}, call.cancel)
    client.close()
    gevent.sleep(0.01)
    assert call.cancelled
    stop()
    stop()
