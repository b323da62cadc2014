"""A real nginx in front of a gateway, started by the same script as in production."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

from scripts.executables import find_nginx
from tests.support.servers import ROOT, free_port, wait_for


class Nginx:
    """nginx on two free ports. `env` are further variables of nginx/start.sh."""

    def __init__(self, directory: Path, gateway_port: int, **env: str) -> None:
        self.directory = directory
        self.tls_port, self.http_port = free_port(), free_port()
        self.env = {
            "PATH": os.environ["PATH"],
            "NGINX_BIN": find_nginx() or "nginx",
            "NGINX_WORK": str(directory / "its work"),
            "TLS_DIR": str(directory / "its tls"),
            "TLS_LISTEN": f"127.0.0.1:{self.tls_port}",
            "NGINX_WORKERS": "1",
            "HTTP_LISTEN": f"127.0.0.1:{self.http_port}",
            "GATEWAY": f"127.0.0.1:{gateway_port}",
            "ACCESS_LOG": f"{directory / 'access.log'} json",
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Nginx:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "error.log").open("ab") as errors:
            self._process = subprocess.Popen(["sh", "nginx/start.sh"], cwd=ROOT, env=self.env, stderr=errors)
        wait_for(self._listens, message="nginx did not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self, nginx: str, gateway: str) -> str:
        """Returns the output of another nginx's `nginx -t` for the configuration for `gateway`."""
        env = {**self.env, "NGINX_BIN": nginx, "GATEWAY": gateway, "RESOLVER": "127.0.0.1"}
        result = subprocess.run(
            ["sh", "nginx/start.sh", "-t"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
        )
        return result.stderr

    def connect(self, *, protocols: tuple[str, ...] = (), **limits: Any) -> ssl.SSLSocket:
        """A TLS connection. `protocols` are offered by ALPN; `limits` are set on the context."""
        context = ssl.create_default_context(cafile=str(self.directory / "its tls" / "fullchain.pem"))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        ciphers = limits.pop("ciphers", None)
        for name, value in limits.items():
            setattr(context, name, value)
        if ciphers:
            context.set_ciphers(ciphers)
        plain = socket.create_connection(("127.0.0.1", self.tls_port), timeout=10)
        return context.wrap_socket(plain, server_hostname="localhost")

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "access.log").read_text().splitlines()]

    def error_log(self) -> str:
        return (self.directory / "error.log").read_text()

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.error_log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.tls_port)) == 0
