"""Reading of the configuration files: `gateway.yaml`, `prices.yaml` and the support assistant's prompt.

`${NAME}` in `gateway.yaml` is replaced by the variable, which must be set; `${NAME:-default}` may be unset, and an
empty or blank value counts as unset. Functions raise `ConfigError`, whose message is one line that names the file, the
field and what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from app.config.gateway import GatewayConfig
from app.config.prices import PriceFile, PriceOverride
from app.config.references import check_references
from app.errors import ConfigError

MIN_SECRET_CHARS = 8  # a shorter value is not redacted: it may be any word
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

M = TypeVar("M", bound=BaseModel)


def load_config(path: Path, env: Mapping[str, str]) -> tuple[GatewayConfig, set[str]]:
    """Returns the configuration at `path`, with variables of `env`, and those of their values that may be secrets."""
    used: set[str] = set()
    data = _note_key_variables(_read_yaml(path))
    config = _validated(GatewayConfig, _substitute(data, env, str(path), "", used), path)
    check_references(config, path)
    return config, used


def load_prices(path: Path) -> dict[str, dict[str, PriceOverride]]:
    """Returns the price overrides at `path` by provider and model; none when the file does not exist."""
    if not path.exists():
        return {}
    return _validated(PriceFile, {"prices": _read_yaml(path) or {}}, path).prices


def support_prompt_path(config_path: Path, config: GatewayConfig) -> Path:
    """Returns the path of the support assistant's system prompt, which need not exist."""
    return config_path.parent / "prompts" / (config.support.prompt or "support.txt")


def load_support_prompt(config_path: Path, config: GatewayConfig) -> str:
    """Returns the support assistant's system prompt; "" when no file is named and none exists."""
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
        raise ConfigError(f"{path}: {_dotted(first['loc']) or 'the file'}: {expectation(first)}") from None


def _note_key_variables(data: Any) -> Any:
    """Notes the variable of each provider's key in `key_variable`, before its value takes its place."""
    providers = data.get("providers") if isinstance(data, dict) else None
    for provider in providers.values() if isinstance(providers, dict) else ():
        key = provider.get("api_key") if isinstance(provider, dict) else None
        variable = _VARIABLE.search(key) if isinstance(key, str) else None
        if variable is not None:
            provider.setdefault("key_variable", variable[1])
    return data


def _substitute(node: Any, env: Mapping[str, str], file: str, path: str, used: set[str]) -> Any:
    if isinstance(node, dict):
        return {k: _substitute(v, env, file, f"{path}.{k}" if path else str(k), used) for k, v in node.items()}
    if isinstance(node, list):
        return [_substitute(v, env, file, f"{path}.{i}", used) for i, v in enumerate(node)]
    if not isinstance(node, str):
        return node

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = env.get(name) or ""
        if found.strip():
            if len(found.strip()) >= MIN_SECRET_CHARS:
                used.add(found.strip())
            return found
        if default is None:
            raise ConfigError(f"{file}: {path}: {name} is not set; set it, or write ${{{name}:-}} if it may be empty")
        return default

    filled = _VARIABLE.sub(value, node)
    return None if node != filled and filled == "" else filled


def _dotted(loc: tuple[int | str, ...]) -> str:
    # pydantic puts "[key]" after a mapping's bad key and the union's branch names into the path.
    return ".".join(str(part) for part in loc if part not in ("[key]", "str", "Target"))


def expectation(error: Any) -> str:
    """Returns what a validation error of pydantic expected, as the end of a one-line message."""
    message = str(error["msg"]).removeprefix("Value error, ")
    return "unknown field" if error["type"] == "extra_forbidden" else message[0].lower() + message[1:]
