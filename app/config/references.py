"""Checks that the providers, models and plans that a configuration refers to are in it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from app.config.gateway import GatewayConfig, TargetConfig
from app.config.serving import AUTO, chat_models
from app.errors import ConfigError


def check_references(config: GatewayConfig, path: Path) -> None:
    """Raises `ConfigError` for an unknown name: one line with the file, the field and the names that there are."""
    _check_model(path, "support.model", config.support.model, config.models)
    known = ", ".join(sorted(config.providers))
    for alias, model in config.models.items():
        named = [(f"targets.{i}.provider", t.provider) for i, t in enumerate(model.targets)]
        named += [
            (f"fallbacks.{i}.provider", fallback.provider)
            for i, fallback in enumerate(model.fallbacks)
            if isinstance(fallback, TargetConfig)
        ]
        for where, provider in named:
            if provider not in config.providers:
                raise ConfigError(f"{path}: models.{alias}.{where}: no provider {provider!r}; expected one of: {known}")
        for i, fallback in enumerate(model.fallbacks):
            if isinstance(fallback, str) and fallback not in config.models and fallback not in config.providers:
                raise ConfigError(
                    f"{path}: models.{alias}.fallbacks.{i}: {fallback!r} is neither a model nor a provider"
                )
    _check_model(path, "default_model", config.default_model, {AUTO, *chat_models(config)}, "chat model")
    _check_smart(config, path)


def _check_model(path: Path, where: str, model: str | None, known: Collection[str], what: str = "model") -> None:
    if model is not None and model not in known:
        raise ConfigError(f"{path}: {where}: no {what} {model!r}; expected one of: {', '.join(sorted(known))}")


def _check_smart(config: GatewayConfig, path: Path) -> None:
    smart = config.smart
    models = [(f"rules.{i}.model", rule.model) for i, rule in enumerate(smart.rules)]
    if smart.default is not None:
        models.append(("default", smart.default))
    plans = [(f"rules.{i}.plans.{j}", p) for i, rule in enumerate(smart.rules) for j, p in enumerate(rule.plans)]
    for kind, named, known in (("model", models, config.models), ("plan", plans, config.plans)):
        for where, name in named:
            if name not in known:
                expected = ", ".join(sorted(known))
                raise ConfigError(f"{path}: smart.{where}: no {kind} {name!r}; expected one of: {expected}")
