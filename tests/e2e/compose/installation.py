"""An installation as an operator has it: a copy of the project, a vendor's key in the shell, and `docker-compose`.

Everything is done through the published port and the commands of the documentation.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.servers import ROOT, free_port, wait_for

BASES = {
    "PENSTOCK_PYTHON_IMAGE": "penstock-test/python",
    "REDIS_IMAGE": "penstock-test/redis",
    "NGINX_IMAGE": "penstock-test/nginx",
}
IMAGE = "penstock-test/penstock"
VENDOR_KEY = "sk-only-in-the-shell"
# What `docker-compose up` starts; `setup` runs once and ends.
SERVICES = ("redis", "ledger", "gateway", "worker", "nginx")


class Installation:
    """`docker-compose` in `directory`, against the engine at `docker_host`."""

    def __init__(self, directory: Path, docker_host: str) -> None:
        self.directory = directory
        self.http_port, self.https_port = free_port(), free_port()
        self._env = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")},
            **BASES,
            "DOCKER_HOST": docker_host,
            "DOCKER_BUILDKIT": "0",
            "PENSTOCK_IMAGE": IMAGE,
            "COMPOSE_PROJECT_NAME": "penstock-test",
            "OPENAI_API_KEY": VENDOR_KEY,
            "PUBLISH_HTTP": f"127.0.0.1:{self.http_port}",
            "PUBLISH_HTTPS": f"127.0.0.1:{self.https_port}",
        }
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, directory / name)
        # The vendor is played, by a container beside the gateway.
        config = directory / "config" / "gateway.yaml"
        shipped = config.read_text()
        assert "https://api.openai.com" in shipped
        config.write_text(shipped.replace("https://api.openai.com", "http://vendor:8000"))

    # ----- commands

    def run(self, *command: str, stdin: bytes | None = None, timeout_s: float = 300, check: bool = True) -> bytes:
        """A command in the installation's directory; its standard output. What it said when it fails."""
        done = subprocess.run(
            command, cwd=self.directory, env=self._env, input=stdin, capture_output=True, timeout=timeout_s
        )
        if check and done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")[-6000:]
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
        return done.stdout

    def compose(self, *command: str, **options: Any) -> str:
        return self.run("docker-compose", *command, **options).decode(errors="replace")

    def flask(self, *command: str, service: str = "gateway") -> str:
        """A command of ours, in a running container."""
        return self.compose("exec", "-T", service, "flask", "--app", "app", *command)

    def inspect(self, service: str) -> list[dict[str, Any]]:
        """docker's view of the service's containers, the ended ones too."""
        # Not `docker-compose ps`, which takes half a second: this is asked again and again.
        labels = {"project": self._env["COMPOSE_PROJECT_NAME"], "service": service, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        ids = self.run("docker", "ps", "--all", "--quiet", *filters).decode().split()
        return json.loads(self.run("docker", "inspect", *ids)) if ids else []

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "60")

    @contextmanager
    def played_vendor(self) -> Iterator[None]:
        """At http://vendor:8000, for the containers that reach the outside."""
        script = Path(__file__).with_name("vendor.py").read_text()
        name = f"{self._env['COMPOSE_PROJECT_NAME']}-vendor"
        options = [
            "--rm",
            "--detach",
            "--name",
            name,
            "--network-alias",
            "vendor",
            "--network",
            f"{self._env['COMPOSE_PROJECT_NAME']}_egress",
        ]
        self.run("docker", "run", *options, BASES["PENSTOCK_PYTHON_IMAGE"], "python3", "-c", script, VENDOR_KEY)
        try:
            wait_for(lambda: b"listening" in self.run("docker", "logs", name), message="no vendor")
            yield
        finally:
            self.run("docker", "rm", "--force", name)

    @property
    def admin_key(self) -> str:
        """By the command of the documentation."""
        return self.compose("exec", "-T", "gateway", "cat", "/run/penstock/admin-key").strip()

    # ----- life

    def build(self) -> None:
        self.compose("build", timeout_s=900)

    def up(self, *options: str) -> float:
        """`docker-compose up -d` until everything is healthy; the seconds it took."""
        started = time.monotonic()
        try:
            self.compose("up", "-d", *options)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.logs()}") from None
        self.wait_until_healthy()
        return time.monotonic() - started

    def wait_until_healthy(self) -> None:
        def all_healthy() -> bool:
            return all(self.health(service) == {"healthy"} for service in SERVICES)

        wait_for(all_healthy, timeout_s=120, message=f"not everything is healthy:\n{self.compose('ps')}{self.logs()}")
        wait_for(lambda: self.get("/ready")[0] == 200, timeout_s=30, message=f"not ready:\n{self.logs()}")

    def health(self, service: str) -> set[str]:
        return {container["State"].get("Health", {}).get("Status", "none") for container in self.inspect(service)}

    def down(self, *options: str) -> None:
        self.compose("down", *options)

    def reload_gateways(self) -> None:
        """SIGHUP to gunicorn: new workers, the old ones finish what they have."""
        self.compose("kill", "-s", "HUP", "gateway")

    # ----- callers

    @contextmanager
    def connection(self, timeout_s: float = 30) -> Iterator[http.client.HTTPSConnection]:
        """Through the published TLS port. The certificate is self-signed, of the first start."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        opened = http.client.HTTPSConnection("127.0.0.1", self.https_port, timeout=timeout_s, context=context)
        try:
            yield opened
        finally:
            opened.close()

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body; status 0 when nobody answers."""
        try:
            with self.connection(5) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as exc:
            return 0, repr(exc)

    def chat(self, key: str, text: str = "Hello", **body: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
        """A completion; status, headers in lower case, body."""
        with self.connection() as connection:
            connection.request("POST", "/v1/chat/completions", chat_body(text, **body), headers(key))
            answer = connection.getresponse()
            got = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, got, json.loads(answer.read())

    def stream(self, key: str, text: str, **body: Any) -> list[tuple[float, bytes]]:
        """The events of a streamed completion, each with the seconds after which it arrived."""
        with self.connection() as connection:
            started = time.monotonic()
            connection.request("POST", "/v1/chat/completions", chat_body(text, stream=True, **body), headers(key))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            events = []
            while line := answer.readline():
                if line.startswith(b"data: "):
                    events.append((time.monotonic() - started, line[6:].strip()))
            return events

    def create_key(self, name: str, *options: str) -> str:
        return self.flask("keys", "create", "--name", name, *options).strip().splitlines()[-1]

    def calls_of(self, name: str) -> int:
        """The ledger's rows of the key with this name."""
        lines = json.loads(self.flask("usage", "--by", "key", "--format", "json", service="ledger"))
        return sum(line["calls"] for line in lines if line["name"] == name)

    def wait_for_calls(self, name: str, count: int) -> None:
        """Until the ledger has that many rows of the key, and no more."""
        wait_for(lambda: self.calls_of(name) >= count, timeout_s=30, message=f"{self.calls_of(name)} rows, not {count}")
        assert self.calls_of(name) == count, self.flask("usage", "--by", "key", service="ledger")


def chat_body(text: str, **body: Any) -> bytes:
    return json.dumps({"model": "demo", "messages": [{"role": "user", "content": text}], **body}).encode()


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
