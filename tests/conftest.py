"""Fixtures for every test: a real Redis, the fake vendor, real gateways; and no socket beyond this machine."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
import structlog
from hypothesis import Phase, settings

from tests.support.servers import Gateway, RedisServer, flushed
from tests.support.upstream import Upstream
from tests.support.vendors.server import Vendors

TESTS = Path(__file__).parent

# For scripts.mutants: that a test fails is enough to know, and a smaller example takes minutes to find.
settings.register_profile("no-shrinking", phases=[Phase.explicit, Phase.generate])


@pytest.fixture(autouse=True)
def _fresh_loggers() -> None:
    """A logger keeps what it was configured with at its first use; a test that ran before may have configured it."""
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.startswith("app."):
            getattr(module, "log", module).__dict__.pop("bind", None)


@pytest.fixture(autouse=True)
def _time_of_the_event_loop() -> None:
    """Tests that do not use it may have taken long: a timer that starts by its old time is up at once."""
    gevent.get_hub().loop.update_now()


SERVERS = {"redis_server", "own_server", "own_redis", "gateway", "docker_host"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test that needs the session's Redis or another process: `-m "not server"` selects the others.

    A test outside `tests/unit` starts what it needs in many ways; there, only tests of files are left unmarked.
    """
    for item in items:
        room = item.path.relative_to(TESTS).parts[0]
        starts_servers = not SERVERS.isdisjoint(getattr(item, "fixturenames", ()))
        if starts_servers or room not in ("unit", item.path.name):
            item.add_marker(pytest.mark.server)


# Whoever runs the tests in the background ignores these (a shell's `&`, nohup), and what the tests start would inherit
# it: Ctrl-C, and a terminal that is closed, would end nothing.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test wants to leave this machine: {address[0]}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may stop or change."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    flushed(redis_server.url)
    return redis_server.url


@pytest.fixture(scope="session")
def vendor() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(vendor: Upstream) -> Upstream:
    """The fake vendor, its counts at zero."""
    vendor.reset()
    return vendor


@pytest.fixture(scope="session")
def played_vendors() -> Iterator[Vendors]:
    with Vendors() as vendors:
        yield vendors


@pytest.fixture
def vendors(played_vendors: Vendors) -> Vendors:
    """The played vendors of every dialect, their records empty."""
    played_vendors.reset()
    return played_vendors


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Gateway]]:
    """Starts real gateways: `gateway(config, prices=…, workers=…)`."""
    with ExitStack() as stack:
        started = 0

        def start(config: str, **options: Any) -> Gateway:
            nonlocal started
            started += 1
            return stack.enter_context(Gateway(tmp_path / f"gateway-{started}", config, redis_url=redis_url, **options))

        yield start
