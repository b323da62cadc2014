"""Which models can be served, and which of them is the default: a provider whose key is missing serves nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from app.config.gateway import GatewayConfig, TargetConfig

AUTO = "auto"  # the name by which callers ask the gateway to pick
_MOST_NAMED = 5


def chat_models(config: GatewayConfig, first: str | None = None) -> tuple[str, ...]:
    """The chat models by how well they do as a default: `first`, then as in the file, but last what cannot be served.

    `first` may be `auto`.
    """
    named = [first] if first is not None else []
    models = dict.fromkeys([*named, *(alias for alias, model in config.models.items() if model.kind == "chat")])
    return tuple(sorted(models, key=lambda alias: not can_serve(config, alias)))


def default_model(config: GatewayConfig) -> str:
    """What a chat call gets that names no model, with a key that may use every model."""
    return next(iter(chat_models(config, config.default_model)), next(iter(config.models)))


def can_serve(config: GatewayConfig, alias: str) -> bool:
    """Whether any provider that may be asked for the model has its key. `auto` can always be served."""
    if alias not in config.models:
        return True
    return any(not config.providers[name].has_no_key for name in _providers(config, alias))


def unavailable_reason(config: GatewayConfig, alias: str) -> str:
    """What keeps the model from being served; "" when nothing does."""
    if can_serve(config, alias):
        return ""
    return missing_key_reason(config, config.models[alias].targets[0].provider)


def missing_key_reason(config: GatewayConfig, provider: str) -> str:
    return f"{provider} has no API key: set {_key_setting(config, provider)}"


class MissingKey(NamedTuple):
    """A provider without its key, the variable or field to set, and the models that cannot be served for it."""

    provider: str
    setting: str
    models: str


def missing_keys(config: GatewayConfig) -> list[MissingKey]:
    """For a line in a log or on a screen: of many models, the first are named."""
    missing = []
    for name, provider in config.providers.items():
        if provider.has_no_key:
            models = [alias for alias in config.models if name in _providers(config, alias)]
            unserved = [alias for alias in models if not can_serve(config, alias)]
            more = len(unserved) - _MOST_NAMED
            named = ", ".join(unserved[:_MOST_NAMED]) or "none"
            told = f"{named} and {more} more" if more > 0 else named
            missing.append(MissingKey(name, _key_setting(config, name), told))
    return missing


def _key_setting(config: GatewayConfig, provider: str) -> str:
    return config.providers[provider].key_variable or f"providers.{provider}.api_key"


def _providers(config: GatewayConfig, alias: str) -> Iterator[str]:
    """Those who may be asked for the model. As `gateway.routes` builds its route."""
    model = config.models[alias]
    for entry in (*model.targets, *model.fallbacks):
        if isinstance(entry, TargetConfig):
            yield entry.provider
        elif entry in config.models:
            yield from (target.provider for target in config.models[entry].targets)
        else:
            yield entry
