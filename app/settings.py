"""Settings of a process: the environment, which only this module reads, and the configuration files that it names.

A bad or missing setting raises `ConfigError`, whose message is one line that names the variable or the file, the field
and what is expected. Secrets come from the environment (`NAME`) or from a file (`NAME_FILE`), never from YAML, which
refers to them as `${NAME}` (`app/config/files.py`).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.config.files import MIN_SECRET_CHARS, expectation, load_config, load_prices, load_support_prompt
from app.config.gateway import GatewayConfig
from app.config.prices import PriceOverride
from app.errors import ConfigError
from app.runfile import running_gateway

VERSION = "0.1.0"
# The variable with the path of the snapshot that gunicorn's master made (app/config_snapshot.py). Not for operators.
CONFIG_COPY = "PENSTOCK_CONFIG_COPY"
_SECRETS = (
    "REDIS_URL",
    "DATABASE_URL",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "ADMIN_KEY",
    "DEV_API_KEY",
    "CALLBACK_SECRET",
)
_BYTES_PER_WORKER = 256 * 1024 * 1024  # 90 MB at rest; the rest is for streams and long answers


class Settings(BaseModel):
    """All settings of the processes, frozen."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    env: Literal["development", "production"] = "development"
    data_dir: Path = Path("data")
    redis_url: str = "redis://127.0.0.1:6379/0"
    database_url: str = ""
    admin_key: str | None = Field(None, min_length=16)  # it may do anything, and never expires
    dev_api_key: str | None = None
    callback_secret: str | None = None  # signs the callbacks of jobs
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    tls_port: int = Field(8443, ge=1, le=65535)
    worker_port: int = Field(0, ge=0, le=65535)  # of the metrics of the queue's worker; 0: none
    tls_certificate: Path | None = None  # nginx's certificate, to report when it expires
    workers: int = Field(2, ge=1, le=256)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")  # proxies whose word on their clients is believed
    config_path: Path = Path("config/gateway.yaml")
    prices_path: Path = Path("config/prices.yaml")
    config: GatewayConfig
    prices: dict[str, dict[str, PriceOverride]] = Field(default_factory=dict)
    support_prompt: str = ""  # the file's text; "" for the built-in one
    secrets: frozenset[str] = Field(frozenset(), repr=False)  # values to redact wherever text leaves the process

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            if network != "*":
                ip_network(network)
        return networks

    def __repr__(self) -> str:
        return f"Settings(env={self.env!r}, config_path={str(self.config_path)!r})"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the environment (or `environ`) and the files it names. Raises `ConfigError`; writes nothing."""
    env = dict(os.environ if environ is None else environ)
    for name in _SECRETS:
        _read_secret_file(env, name)
    config_path = Path(env.get(CONFIG_COPY) or env.get("GATEWAY_CONFIG") or "config/gateway.yaml")
    prices_path = config_path.parent / "prices.yaml"
    config, substituted = load_config(config_path, env)
    values = _environment_values(env) | {
        "config_path": config_path,
        "prices_path": prices_path,
        "config": config,
        "prices": load_prices(prices_path),
        "support_prompt": load_support_prompt(config_path, config),
    }
    values["secrets"] = frozenset(
        substituted | {env[name] for name in _SECRETS if len(env.get(name) or "") >= MIN_SECRET_CHARS}
    )
    try:
        return Settings.model_validate({name: value for name, value in values.items() if value not in (None, "")})
    except ValidationError as exc:
        variable = {"env": "GATEWAY_ENV", "workers": "WEB_CONCURRENCY"}
        first = exc.errors()[0]
        field = str(first["loc"][0])
        raise ConfigError(f"environment: {variable.get(field, field.upper())}: {expectation(first)}") from None


def _environment_values(env: dict[str, str]) -> dict[str, Any]:
    """Returns the values of the variables, by field of `Settings`; None or "" for one that is not set.

    In development, the commands that run beside a `make run` use its Redis, and its development key.
    """
    data_dir = Path(env.get("DATA_DIR") or "data")
    mode = env.get("GATEWAY_ENV") or "development"
    if mode == "production" and env.get("DEV_API_KEY"):
        raise ConfigError("environment: DEV_API_KEY: only for development; unset it or set GATEWAY_ENV=development")
    run = running_gateway(data_dir) if mode == "development" else None
    if run is not None and not env.get("REDIS_URL"):
        env["REDIS_URL"] = run.redis_url
    workers = env.get("WEB_CONCURRENCY") or env.get("WORKERS")
    return {
        "env": mode,
        "data_dir": data_dir,
        "redis_url": env.get("REDIS_URL"),
        "database_url": env.get("DATABASE_URL") or f"sqlite:///{(data_dir / 'ledger.db').absolute()}",
        "admin_key": env.get("ADMIN_KEY"),
        "dev_api_key": env.get("DEV_API_KEY") or (run.key if run else "") or _stored_dev_key(data_dir, mode),
        "callback_secret": _signing_secret(env.get("CALLBACK_SECRET")),
        "worker_port": env.get("WORKER_PORT"),
        "host": env.get("HOST"),
        "port": env.get("PORT"),
        "tls_port": env.get("TLS_PORT"),
        "tls_certificate": env.get("TLS_CERTIFICATE"),
        "workers": workers or (2 if mode == "development" else default_worker_count()),
        "log_level": (env.get("LOG_LEVEL") or "info").lower(),
        "forwarded_allow_ips": _split_list(env.get("FORWARDED_ALLOW_IPS")),
    }


def _split_list(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def default_worker_count(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns a worker for each core that the container may use, but no more than fit in its memory."""
    cores = float(len(os.sched_getaffinity(0)))
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        cores = min(cores, float(quota) / float(period))
    except (OSError, ValueError):
        pass  # no limit, or no cgroup v2
    try:
        memory = min(memory, float((cgroup / "memory.max").read_text()))
    except (OSError, ValueError):
        pass
    return max(1, min(round(cores), int(memory // _BYTES_PER_WORKER), 256))


def _signing_secret(secret: str | None) -> str | None:
    """Returns the secret. Raises `ConfigError` for a whsec_ secret that is not base64."""
    if secret and secret.startswith("whsec_"):
        try:
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ConfigError("environment: CALLBACK_SECRET: expected base64 after whsec_") from None
    return secret


def _read_secret_file(env: dict[str, str], name: str) -> None:
    """Sets the secret `name` in `env` from the file that `NAME_FILE` names, if any."""
    file = env.get(f"{name}_FILE")
    if not file:
        return
    try:
        content = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        content = None
    if env.get(name) and env[name] != content:
        raise ConfigError(f"environment: {name} and {name}_FILE are both set, and differ; expected one of them")
    if content is None:
        raise ConfigError(f"environment: {name}_FILE: {file}: cannot be read")
    env[name] = content


def _stored_dev_key(data_dir: Path, mode: str) -> str | None:
    """Returns the key that `make run` made for this DATA_DIR."""
    try:
        return (data_dir / "dev-key").read_text(encoding="ascii").strip() if mode == "development" else None
    except (OSError, UnicodeDecodeError):
        return None
