"""Peers: other gateways that `make bench-peers` installs, configures and measures in the same run as ours.

Each lives in an environment of its own below `.bench/`; none is a dependency. One that does not install or start is a
line in the report. Traps: compiled bytecode, telemetry off, no rate limits, as many workers as ours.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.servers import ROOT, free_port, wait_for

HOME = ROOT / ".bench"
_MASTER_KEY = "sk-" + secrets.token_hex(24)  # LiteLLM does not start without one
_FEW_CALLS = {"completion": 400, "50 chunks, 200 streams at once": 200}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another gateway, with the commands that install and start it, and the calls that it gets."""

    name: str
    install: tuple[tuple[str, ...], ...]
    command: Callable[[Path, int, str], list[str]]  # directory for its files, port, vendor's URL
    env: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    headers: Callable[[str], str] = lambda _: ""
    key: str = "sk-bench"  # what calls authenticate with, where the gateway looks at it
    scenarios: Mapping[str, int] = field(default_factory=lambda: _FEW_CALLS)  # with how many calls


def _python(name: str, package: str) -> tuple[tuple[str, ...], ...]:
    bin = HOME / name / "bin"
    return (
        (sys.executable, "-m", "venv", str(HOME / name)),
        (str(bin / "pip"), "install", "-q", "--no-cache-dir", package),
        (str(bin / "python"), "-m", "compileall", "-q", str(HOME / name / "lib")),
    )


def _litellm(directory: Path, port: int, url: str) -> list[str]:
    models = "\n".join(
        f"  - model_name: {name}\n    litellm_params: {{model: openai/{name}, api_base: {url}, api_key: sk-bench}}"
        for name in ("plain", "stream-50-20")
    )
    (directory / "litellm.yaml").write_text(
        f"model_list:\n{models}\nlitellm_settings: {{telemetry: false}}\n"
        f"general_settings: {{master_key: {_MASTER_KEY}}}\n"
    )
    return [
        str(HOME / "litellm/bin/litellm"),
        "--config",
        str(directory / "litellm.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "2",
    ]


def _mlflow(directory: Path, port: int, url: str) -> list[str]:
    endpoints = "\n".join(
        f"  - name: {name}\n    endpoint_type: llm/v1/chat\n    model:\n      provider: openai\n      name: {name}\n"
        f"      config: {{openai_api_key: sk-bench, openai_api_base: {url}}}"
        for name in ("plain", "stream-50-20")
    )
    (directory / "mlflow.yaml").write_text(f"endpoints:\n{endpoints}\n")
    return [
        str(HOME / "mlflow/bin/mlflow"),
        "gateway",
        "start",
        "--config-path",
        str(directory / "mlflow.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "2",
    ]


def _portkey(_directory: Path, port: int, _url: str) -> list[str]:
    server = HOME / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    return ["node", str(server), f"--port={port}", "--headless"]


PEERS = (
    Peer(
        name="LiteLLM proxy",
        install=_python("litellm", "litellm[proxy]"),
        command=_litellm,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"},
        key=_MASTER_KEY,
    ),
    Peer(
        name="MLflow gateway",
        install=_python("mlflow", "mlflow[gateway]"),
        command=_mlflow,
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
    ),
    Peer(
        name="Portkey gateway",
        # With the node-server that npm chooses by itself (1.19) every stream is a 500 (their issue 1389). node-ws asks
        # for that one, and an earlier install would keep it.
        install=(
            ("rm", "-rf", str(HOME / "portkey")),
            (
                "npm",
                "install",
                "--no-audit",
                "--prefix",
                str(HOME / "portkey"),
                "@portkey-ai/gateway",
                "@hono/node-server@1.13.8",
                "@hono/node-ws@1.2.0",
            ),
        ),
        command=_portkey,
        headers=lambda url: f"x-portkey-provider: openai\r\nx-portkey-custom-host: {url}\r\n",
    ),
)


def install(peer: Peer) -> None:
    """Runs the peer's installation commands. Raises `OSError`, `CalledProcessError`."""
    for command in peer.install:
        subprocess.run(command, check=True, timeout=1800, stdout=subprocess.DEVNULL)


@contextmanager
def running(peer: Peer, vendor_url: str, directory: Path) -> Iterator[tuple[psutil.Process, int]]:
    """Runs the peer. Yields its process and port. Raises `AssertionError` when it does not come up."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["HOME"] = str(directory)  # some write sockets and caches there
    with (directory / f"{peer.name}.log").open("wb") as log:
        process = subprocess.Popen(
            peer.command(directory, port, vendor_url),
            cwd=directory,
            env={**kept, **peer.env},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(lambda: _answers(process, port), timeout_s=180, message="it did not answer within three minutes")
        yield psutil.Process(process.pid), port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "it ended at once"
    with socket.socket() as probe:
        return bool(probe.connect_ex(("127.0.0.1", port)) == 0)


def main() -> None:
    """Installs all peers."""
    HOME.mkdir(exist_ok=True)
    for peer in PEERS:
        try:
            install(peer)
        except (OSError, subprocess.SubprocessError) as exc:
            print(f"{peer.name}: {exc}", file=sys.stderr)
            for tool in {command[0] for command in peer.install if shutil.which(command[0]) is None}:
                print(f"{tool} is missing", file=sys.stderr)


if __name__ == "__main__":
    main()
