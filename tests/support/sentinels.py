"""Three real Redis servers, one of them master, watched by three real Sentinels."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import redis

from scripts.executables import find_redis
from tests.support.servers import free_port, wait_for

DOWN_AFTER_MS = 1000  # thirty seconds unless it is said; this is what one would set


class Sentinels:
    """`url` names them; `kill_master` is what a crash does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ports = [free_port() for _ in range(3)]
        self._sentinel_ports = [free_port() for _ in range(3)]
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._sentinels: list[subprocess.Popen[bytes]] = []
        named = ",".join(f"127.0.0.1:{port}" for port in self._sentinel_ports)
        self.url = f"sentinel://{named}/penstock/0"

    def __enter__(self) -> Sentinels:
        first, *others = self.ports
        self.start_server(first)
        for port in others:
            self.start_server(port, "--replicaof", "127.0.0.1", str(first))
        wait_for(lambda: _info(first, "replication").get("connected_slaves") == 2, message="no replicas")
        wait_for(lambda: all(_info(port, "replication")["master_link_status"] == "up" for port in others))
        for port in self._sentinel_ports:
            self._start_sentinel(port, first)
        wait_for(lambda: all(self._sees_all(port) for port in self._sentinel_ports), message="Sentinels do not meet")
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._sentinels, *self._servers.values()):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def start_server(self, port: int, *more: str) -> None:
        directory = self._directory / str(port)
        directory.mkdir(exist_ok=True)
        command = [
            find_redis(),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(directory),
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--loglevel",
            "warning",
            "--repl-diskless-sync-delay",
            "0",
            "--repl-ping-replica-period",
            "1",
            *more,
        ]
        self._servers[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: _answers(port), message="redis-server did not start")

    @property
    def master(self) -> int:
        """The port of the master that the first Sentinel names."""
        with redis.Redis(port=self._sentinel_ports[0], socket_timeout=2) as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "penstock")[1])

    def kill_master(self) -> int:
        """SIGKILL. Returns its port."""
        port = self.master
        self._servers[port].kill()
        self._servers[port].wait()
        return port

    def _start_sentinel(self, port: int, master: int) -> None:
        config = self._directory / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._directory}\nsentinel monitor penstock 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds penstock {DOWN_AFTER_MS}\nsentinel failover-timeout penstock 10000\n"
        )
        self._sentinels.append(
            subprocess.Popen(["redis-sentinel", str(config)], stdout=subprocess.DEVNULL, env={**os.environ})
        )
        wait_for(lambda: _answers(port), message="redis-sentinel did not start")

    def _sees_all(self, port: int) -> bool:
        with redis.Redis(port=port, socket_timeout=2) as sentinel:
            state = sentinel.sentinel_master("penstock")
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 2)


def installed() -> bool:
    return shutil.which("redis-sentinel") is not None


def _info(port: int, section: str) -> dict[str, object]:
    with redis.Redis(port=port, socket_timeout=2) as server:
        found: dict[str, object] = server.info(section)
        return found


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            client.sendall(b"PING\r\n")
            return client.recv(5) == b"+PONG"
    except OSError:
        return False
