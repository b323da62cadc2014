"""Benchmark environment: the processes of a measurement: vendor, Redis, gateway, nginx before it, and yardsticks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from bench.bare_nginx import run_bare_nginx
from bench.measure import cpu_s, load, memory_mb
from bench.scenarios import LIMITED, PRICES, VALID, Scenario, config_for, question
from bench.vendor import DialectUpstream
from tests.support.nginx import Nginx
from tests.support.servers import ROOT, Gateway, RedisServer, free_port, wait_for


class Environment:
    """The running processes of a measurement, and their CPU time and memory."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.upstream = stack.enter_context(DialectUpstream())
        self.redis = RedisServer(directory)
        self.redis.start()
        stack.callback(self.redis.stop)
        started = time.perf_counter()
        self.gateway = stack.enter_context(
            Gateway(
                directory / "gateway",
                config_for(self.upstream.url),
                redis_url=self.redis.url,
                prices=PRICES,
                env={"GATEWAY_ENV": "production", "DEV_API_KEY": ""},
            )
        )
        self.start_s = time.perf_counter() - started
        self.keys = {VALID: self.gateway.create_key("bench"), LIMITED: self.gateway.create_key("one", plan="one")}
        self.edge = stack.enter_context(
            Nginx(directory / "edge", self.gateway.port, ACCESS_LOG=f"{directory}/log json")
        )
        self.hello, self.hello_port = stack.enter_context(run_hello(self.gateway.env))
        self.proxy, self.proxy_port = stack.enter_context(run_bare_nginx(directory / "proxy", self.upstream.port))
        self._trees = {
            "gateway": self.gateway.master_pid,
            "redis": self.redis.pid,
            "ledger": self.gateway.ledger_pid,
            "nginx": self.edge.pid,
            "vendor": self.upstream.pid,
        }

    def port(self, scenario: Scenario) -> int:
        return {
            "hello": self.hello_port,
            "proxy": self.proxy_port,
            "gateway": self.gateway.port,
            "edge": self.edge.tls_port,
        }[scenario.at]

    def cpu_seconds(self, scenario: Scenario) -> dict[str, float]:
        """Returns the CPU seconds so far, by process tree; a yardstick stands in the gateway's place."""
        if scenario.is_yardstick:
            yardstick = self.hello if scenario.at == "hello" else self.proxy
            return {"gateway": cpu_s(yardstick), "vendor": cpu_s(psutil.Process(self.upstream.pid))}
        return {name: cpu_s(psutil.Process(pid)) for name, pid in self._trees.items()}

    def memory_mb(self) -> float:
        return memory_mb(psutil.Process(self.gateway.master_pid))


@contextmanager
def run_hello(env: dict[str, str]) -> Iterator[tuple[psutil.Process, int]]:
    """Runs the yardstick under gunicorn's own gevent worker, not ours. Yields its process and port."""
    port = free_port()
    command = [f"{Path(sys.executable).parent}/gunicorn", "-c", "gunicorn.conf.py", "-k", "gevent", "bench.hello:app"]
    own = {**env, "PORT": str(port), "DATA_DIR": env["DATA_DIR"] + "-hello"}
    process = subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    warm_up = Scenario(name="warm-up", body=question("plain"), calls=1, concurrency=1)
    try:
        wait_for(lambda: answers(port, warm_up), message="the hello did not start")
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int, scenario: Scenario) -> bool:
    try:
        return bool(load(port, scenario, "")["statuses"] == {"200": 1})
    except subprocess.CalledProcessError:
        return False
