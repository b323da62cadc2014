"""Availability of models: a model can be served if any of its providers has its key; and the default among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from app.config.gateway import GatewayConfig, TargetConfig, Wire
from app.config.providers import ProviderConfig
from app.domain.generation import DialectName

AUTO = "auto"  # the model name by which callers ask the gateway to pick one
_MAX_LISTED = 5
_OPENAI_HOSTS = (".openai.com", ".openai.azure.com", ".services.ai.azure.com")


def chat_models(config: GatewayConfig, first: str | None = None) -> tuple[str, ...]:
    """Returns the chat models, best default first: `first` (which may be `auto`), then the order of the file.

    Models that cannot be served come last.
    """
    preferred = [first] if first is not None else []
    models = dict.fromkeys([*preferred, *(alias for alias, model in config.models.items() if model.kind == "chat")])
    return tuple(sorted(models, key=lambda alias: not can_serve(config, alias)))


def models_of_kind(config: GatewayConfig, kind: str) -> tuple[str, ...]:
    """Returns the models of a kind in the order of the file. Those that cannot be served come last."""
    models = [alias for alias, model in config.models.items() if model.kind == kind]
    return tuple(sorted(models, key=lambda alias: not can_serve(config, alias)))


def default_model(config: GatewayConfig) -> str:
    """Returns the model of a chat call that names none, for a key that may use every model."""
    return next(iter(chat_models(config, config.default_model)), next(iter(config.models)))


def can_serve(config: GatewayConfig, alias: str) -> bool:
    """Returns whether any provider that may be asked for the model has its key. `auto` can always be served."""
    if alias not in config.models:
        return True
    return any(not config.providers[name].has_no_key for name in _providers(config, alias))


def unavailable_reason(config: GatewayConfig, alias: str) -> str:
    """Returns the reason why the model cannot be served; "" when it can."""
    if can_serve(config, alias):
        return ""
    return missing_key_reason(config, config.models[alias].targets[0].provider)


def wires(provider: ProviderConfig, wire: Wire | None) -> tuple[DialectName, ...]:
    """Returns the dialects in which the provider serves a model for which `wire` is configured, preferred first.

    OpenAI and Azure serve most models in both of theirs; other servers of the kind may know chat completions alone.
    """
    if provider.kind == "anthropic":
        return ("messages",)
    if provider.kind == "gemini":
        return ("gemini",)
    if wire is not None:
        return (wire,)
    host = urlsplit(provider.base_url or "").hostname or ""
    return ("chat", "responses") if host.endswith(_OPENAI_HOSTS) else ("chat",)


def missing_key_reason(config: GatewayConfig, provider: str) -> str:
    """Returns a sentence that names the provider without a key, and what to set."""
    return f"{provider} has no API key: set {_key_setting(config, provider)}"


class MissingKey(NamedTuple):
    """A provider without its key, the variable or field to set, and the models that cannot be served without it."""

    provider: str
    setting: str
    models: str


def missing_keys(config: GatewayConfig) -> list[MissingKey]:
    """Returns a row for each provider without its key, for a log or a screen: at most five models are listed."""
    missing = []
    for name, provider in config.providers.items():
        if provider.has_no_key:
            models = [alias for alias in config.models if name in _providers(config, alias)]
            unserved = [alias for alias in models if not can_serve(config, alias)]
            more = len(unserved) - _MAX_LISTED
            listed = ", ".join(unserved[:_MAX_LISTED]) or "none"
            shown = f"{listed} and {more} more" if more > 0 else listed
            missing.append(MissingKey(name, _key_setting(config, name), shown))
    return missing


def _key_setting(config: GatewayConfig, provider: str) -> str:
    return config.providers[provider].key_variable or f"providers.{provider}.api_key"


def _providers(config: GatewayConfig, alias: str) -> Iterator[str]:
    """Yields the providers that may be asked for the model, in the order of its route (`gateway.routes`)."""
    model = config.models[alias]
    for entry in (*model.targets, *model.fallbacks):
        if isinstance(entry, TargetConfig):
            yield entry.provider
        elif entry in config.models:
            yield from (target.provider for target in config.models[entry].targets)
        else:
            yield entry
