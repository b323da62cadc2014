"""Environment, `config/gateway.yaml` and what it names become one `Settings`: the only reader of the environment.

`${NAME}` in the YAML must be set; `${NAME:-default}` may be unset, and an empty or blank value counts as none.

A bad or missing setting raises `ConfigError`, whose message is one line that names the file, the field and
what is expected. Secrets come from the environment (`NAME`) or from a file (`NAME_FILE`), never from YAML: the
YAML refers to them as `${NAME}`.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.config.gateway import GatewayConfig
from app.config.prices import PriceFile, PriceOverride
from app.config.references import check_references
from app.errors import ConfigError
from app.runfile import running_gateway

VERSION = "0.1.0"
# Names the copy of the file that gunicorn's master checked (see app/config_snapshot.py). Not for people.
CONFIG_COPY = "PENSTOCK_CONFIG_COPY"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
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
_WORKER_BYTES = 256 * 1024 * 1024  # 90 MB at rest; the rest is for streams and long answers

M = TypeVar("M", bound=BaseModel)


class Settings(BaseModel):
    """Everything the processes are told, frozen."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    env: Literal["development", "production"] = "development"
    data_dir: Path = Path("data")
    redis_url: str = "redis://127.0.0.1:6379/0"
    database_url: str = ""
    admin_key: str | None = Field(None, min_length=16)  # it may do anything, and can be guessed at for ever
    dev_api_key: str | None = None
    callback_secret: str | None = None  # what callbacks of jobs are signed with
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    tls_port: int = Field(8443, ge=1, le=65535)
    worker_port: int = Field(0, ge=0, le=65535)  # where the queue's worker shows its metrics; 0: nowhere
    tls_certificate: Path | None = None  # the file that nginx shows, to tell when it expires
    workers: int = Field(2, ge=1, le=256)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    forwarded_allow_ips: tuple[str, ...] = ("127.0.0.1", "::1")  # proxies that say who their clients are
    config_path: Path = Path("config/gateway.yaml")
    prices_path: Path = Path("config/prices.yaml")
    config: GatewayConfig
    prices: dict[str, dict[str, PriceOverride]] = Field(default_factory=dict)
    support_prompt: str = ""  # the file's text; "" for the built-in one
    secrets: frozenset[str] = Field(frozenset(), repr=False)  # values to redact wherever text leaves the process

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses_or_networks(cls, rows: tuple[str, ...]) -> tuple[str, ...]:
        for row in rows:
            if row != "*":
                ip_network(row)
        return rows

    def __repr__(self) -> str:
        return f"Settings(env={self.env!r}, config_path={str(self.config_path)!r})"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the environment (or `environ`) and the YAML it names. Raises `ConfigError`; writes nothing."""
    env = dict(os.environ if environ is None else environ)
    for name in _SECRETS:
        _read_secret_file(env, name)
    config_path = Path(env.get(CONFIG_COPY) or env.get("GATEWAY_CONFIG") or "config/gateway.yaml")
    config, used = load_config(config_path, env)
    data_dir = Path(env.get("DATA_DIR") or "data")
    mode = env.get("GATEWAY_ENV") or "development"
    if mode == "production" and env.get("DEV_API_KEY"):
        raise ConfigError("environment: DEV_API_KEY: only for development; unset it or set GATEWAY_ENV=development")
    # Where a `make run` has its Redis, and its development key, for the commands that are run beside it.
    run = running_gateway(data_dir) if mode == "development" else None
    if run is not None and not env.get("REDIS_URL"):
        env["REDIS_URL"] = run.redis_url
    named = {
        "env": mode,
        "data_dir": data_dir,
        "redis_url": env.get("REDIS_URL"),
        "database_url": env.get("DATABASE_URL") or f"sqlite:///{(data_dir / 'ledger.db').absolute()}",
        "admin_key": env.get("ADMIN_KEY"),
        "dev_api_key": env.get("DEV_API_KEY") or (run.key if run else "") or _kept_dev_key(data_dir, mode),
        "callback_secret": _signing_secret(env.get("CALLBACK_SECRET")),
        "worker_port": env.get("WORKER_PORT"),
        "host": env.get("HOST"),
        "port": env.get("PORT"),
        "tls_port": env.get("TLS_PORT"),
        "tls_certificate": env.get("TLS_CERTIFICATE"),
        "workers": env.get("WEB_CONCURRENCY")
        or env.get("WORKERS")
        or (2 if mode == "development" else default_worker_count()),
        "log_level": (env.get("LOG_LEVEL") or "info").lower(),
        "forwarded_allow_ips": _listed(env.get("FORWARDED_ALLOW_IPS")),
        "config_path": config_path,
        "prices_path": config_path.parent / "prices.yaml",
        "config": config,
        "prices": load_prices(config_path.parent / "prices.yaml"),
        "support_prompt": load_support_prompt(config_path, config),
        "secrets": frozenset(used | {env[name] for name in _SECRETS if len(env.get(name) or "") >= 8}),
    }
    try:
        return Settings.model_validate({name: value for name, value in named.items() if value not in (None, "")})
    except ValidationError as exc:
        variable = {"env": "GATEWAY_ENV", "workers": "WEB_CONCURRENCY"}
        first = exc.errors()[0]
        field = str(first["loc"][0])
        raise ConfigError(f"environment: {variable.get(field, field.upper())}: {_expected(first)}") from None


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def default_worker_count(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """As many workers as there are cores and room for them, within what the container may use."""
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
    return max(1, min(round(cores), int(memory // _WORKER_BYTES), 256))


def load_config(path: Path, env: Mapping[str, str]) -> tuple[GatewayConfig, set[str]]:
    """The YAML at `path` with `${NAME}` and `${NAME:-default}` filled in from `env`; and the values filled in."""
    used: set[str] = set()
    data = _with_key_variables(_read_yaml(path))
    config = _validated(GatewayConfig, _fill_in(data, env, str(path), "", used), path)
    check_references(config, path)
    return config, used


def load_prices(path: Path) -> dict[str, dict[str, PriceOverride]]:
    """The overrides at `path`; none when the file does not exist."""
    if not path.exists():
        return {}
    return _validated(PriceFile, {"prices": _read_yaml(path) or {}}, path).prices


def support_prompt_path(config_path: Path, config: GatewayConfig) -> Path:
    """Where the support assistant's system prompt is looked for."""
    return config_path.parent / "prompts" / (config.support.prompt or "support.txt")


def load_support_prompt(config_path: Path, config: GatewayConfig) -> str:
    """The support assistant's system prompt; "" when no file is named and none is there."""
    path = support_prompt_path(config_path, config)
    if config.support.prompt is None and not path.exists():
        return ""
    text = _read_text(path, f"{config_path}: support.prompt: ").strip()
    if not text:
        raise ConfigError(f"{config_path}: support.prompt: {path}: is empty; expected the system prompt")
    return text


def _read_text(path: Path, named_by: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{named_by}{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{named_by}{path}: is not UTF-8 text") from None


def _read_yaml(path: Path) -> Any:
    text = _read_text(path)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(
            f"{path}:{where} is not valid YAML: {getattr(exc, 'problem', None) or 'syntax error'}"
        ) from None


def _validated(model: type[M], data: Any, path: Path) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise ConfigError(f"{path}: {_dotted(first['loc']) or 'the file'}: {_expected(first)}") from None


def _with_key_variables(data: Any) -> Any:
    """Notes where each provider's key comes from, before the key takes that name's place."""
    providers = data.get("providers") if isinstance(data, dict) else None
    for provider in providers.values() if isinstance(providers, dict) else ():
        key = provider.get("api_key") if isinstance(provider, dict) else None
        variable = _VARIABLE.search(key) if isinstance(key, str) else None
        if variable is not None:
            provider.setdefault("key_variable", variable[1])
    return data


def _fill_in(node: Any, env: Mapping[str, str], file: str, path: str, used: set[str]) -> Any:
    if isinstance(node, dict):
        return {k: _fill_in(v, env, file, f"{path}.{k}" if path else str(k), used) for k, v in node.items()}
    if isinstance(node, list):
        return [_fill_in(v, env, file, f"{path}.{i}", used) for i, v in enumerate(node)]
    if not isinstance(node, str):
        return node

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = env.get(name) or ""
        if found.strip():
            if len(found.strip()) >= 8:
                used.add(found.strip())
            return found
        if default is None:
            raise ConfigError(f"{file}: {path}: {name} is not set; set it, or write ${{{name}:-}} if it may be empty")
        return default

    filled = _VARIABLE.sub(value, node)
    return None if node != filled and filled == "" else filled


def _signing_secret(secret: str | None) -> str | None:
    if secret and secret.startswith("whsec_"):
        try:
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raise ConfigError("environment: CALLBACK_SECRET: expected base64 after whsec_") from None
    return secret


def _read_secret_file(env: dict[str, str], name: str) -> None:
    file = env.get(f"{name}_FILE")
    if not file:
        return
    try:
        kept = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        kept = None
    if env.get(name) and env[name] != kept:
        raise ConfigError(f"environment: {name} and {name}_FILE are both set, and differ; expected one of them")
    if kept is None:
        raise ConfigError(f"environment: {name}_FILE: {file}: cannot be read")
    env[name] = kept


def _kept_dev_key(data_dir: Path, mode: str) -> str | None:
    """The one that `make run` made for this DATA_DIR."""
    try:
        return (data_dir / "dev-key").read_text(encoding="ascii").strip() if mode == "development" else None
    except (OSError, UnicodeDecodeError):
        return None


def _dotted(loc: tuple[int | str, ...]) -> str:
    # pydantic puts "[key]" after a mapping's bad key and the union's branch names into the path.
    return ".".join(str(part) for part in loc if part not in ("[key]", "str", "Target"))


def _expected(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return "unknown field" if error["type"] == "extra_forbidden" else message[0].lower() + message[1:]
