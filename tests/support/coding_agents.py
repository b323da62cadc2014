"""Coding agents as their makers publish them, run headless: in a scratch home, with a dummy key, on loopback alone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".cache" / "clients" / "node_modules"  # by `make test-clients`
_NOWHERE = "http://127.0.0.1:9"  # a proxy for everything that is not loopback: nothing listens there


@dataclass(frozen=True)
class Visit:
    """Where an agent goes: a gateway (or a vendor) at `url`, without a version in its path."""

    url: str
    key: str
    model: str
    home: Path
    folder: Path
    prompt: str


@dataclass(frozen=True)
class Agent:
    """`arrange` writes its files and returns its command and environment."""

    name: str
    package: str
    speaks: str
    arrange: Callable[[Visit], tuple[list[str], dict[str, str]]]

    @property
    def version(self) -> str:
        manifest = json.loads((Path(__file__).parents[1] / "clients" / "package.json").read_text())
        return str(manifest["dependencies"][self.package])

    def run(self, visit: Visit, *, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Runs the agent until it has answered the prompt. Raises TimeoutExpired."""
        command, env = self.arrange(visit)
        scratch = {
            "HOME": str(visit.home),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(visit.home),
            "TERM": "xterm-256color",
            "NO_COLOR": "1",
            "XDG_CONFIG_HOME": str(visit.home / ".config"),
            "XDG_DATA_HOME": str(visit.home / ".local"),
            "XDG_CACHE_HOME": str(visit.home / ".cache"),
            "HTTP_PROXY": _NOWHERE,
            "HTTPS_PROXY": _NOWHERE,
            "NO_PROXY": "127.0.0.1,localhost",
            "CI": "true",
        }
        lower = {name.lower(): value for name, value in scratch.items() if name.endswith("_PROXY")}
        return subprocess.run(
            command,
            cwd=visit.folder,
            env={**scratch, **lower, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def _claude(visit: Visit) -> tuple[list[str], dict[str, str]]:
    binary = PACKAGES / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
    env = {
        "ANTHROPIC_BASE_URL": visit.url,
        "ANTHROPIC_AUTH_TOKEN": visit.key,
        "ANTHROPIC_MODEL": visit.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": visit.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
    }
    return [str(binary), "-p", visit.prompt, "--allowedTools", "Read,Bash"], env


CODEX_CONFIG = """\
model = "{model}"
model_provider = "penstock"
check_for_update_on_startup = false

[model_providers.penstock]
name = "Penstock"
base_url = "{url}/v1"
env_key = "PENSTOCK_API_KEY"
wire_api = "responses"
supports_websockets = false

[analytics]
enabled = false
"""


def _codex(visit: Visit) -> tuple[list[str], dict[str, str]]:
    folder = visit.home / ".codex"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CODEX_CONFIG.format(model=visit.model, url=visit.url))
    script = PACKAGES / "@openai" / "codex" / "bin" / "codex.js"
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "-C", str(visit.folder)]
    return ["node", str(script), "exec", *options, visit.prompt], {"PENSTOCK_API_KEY": visit.key}


GEMINI_SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
}


def _gemini(visit: Visit) -> tuple[list[str], dict[str, str]]:
    folder = visit.home / ".gemini"
    folder.mkdir(exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(GEMINI_SETTINGS))
    script = PACKAGES / "@google" / "gemini-cli" / "bundle" / "gemini.js"
    env = {"GOOGLE_GEMINI_BASE_URL": visit.url, "GEMINI_API_KEY": visit.key}
    return ["node", str(script), "-p", visit.prompt, "-m", visit.model, "--yolo", "--skip-trust"], env


def _opencode(visit: Visit) -> tuple[list[str], dict[str, str]]:
    penstock = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{visit.url}/v1", "apiKey": visit.key},
        "models": {visit.model: {}},
    }
    model = f"penstock/{visit.model}"
    config = {"autoupdate": False, "share": "disabled", "model": model, "small_model": model}
    (visit.folder / "opencode.json").write_text(json.dumps({**config, "provider": {"penstock": penstock}}))
    env = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return [str(PACKAGES / "opencode-linux-x64" / "bin" / "opencode"), "run", visit.prompt], env


AGENTS = (
    Agent("Claude Code", "@anthropic-ai/claude-code", "messages", _claude),
    Agent("Codex CLI", "@openai/codex", "responses", _codex),
    Agent("Gemini CLI", "@google/gemini-cli", "gemini", _gemini),
    Agent("opencode", "opencode-linux-x64", "chat", _opencode),
)
