"""Routes: the targets and fallbacks of each model alias, as far as a key may use them and their providers have keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, replace

from app.config.gateway import GatewayConfig, TargetConfig
from app.config.serving import missing_key_reason, wires
from app.domain.generation import DialectName
from app.domain.identity import Caller
from app.domain.suggestions import unknown_model_message
from app.errors import Forbidden, ModelNotFound
from app.gateway.breaker import Breaker
from app.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider. `name` is `provider/model`: the breaker's label.

    `wires`, `drop` and `max_output_tokens` are as in `providers.base.ChatCall`.
    """

    provider: Provider
    model: str
    weight: float
    breaker: Breaker
    wires: tuple[DialectName, ...] = ()
    drop: frozenset[str] = frozenset()
    max_output_tokens: int = 16_384

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.model}"

    def passes(self, dialect: DialectName) -> bool:
        """Says that a request in this dialect is not translated to another one on its way."""
        return not self.wires or dialect in self.wires


@dataclass(frozen=True, slots=True)
class Route:
    """The targets of an alias, and its fallbacks in the order in which they are tried."""

    alias: str
    targets: tuple[Target, ...]
    fallbacks: tuple[Target, ...]
    max_output_tokens: int
    fallback_aliases: frozenset[str] = frozenset()  # the aliases whose targets are among the fallbacks
    missing_key: str = ""  # the reason, when no target has its key; otherwise targets without their key are left out

    @property
    def all_targets(self) -> tuple[Target, ...]:
        return self.targets + self.fallbacks


class Routes:
    """All routes of the configuration, each target with its breaker. A target of several routes has one breaker."""

    def __init__(
        self,
        *,
        config: GatewayConfig,
        providers: Mapping[str, Provider],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._providers = providers
        self._clock = clock
        self._targets: dict[tuple[str, str], Target] = {}
        self.by_alias = {alias: self._build(alias, frozenset(config.models)) for alias in config.models}
        # By alias and the subset of its fallback aliases that a key may use: bounded by the number of subsets.
        self._restricted: dict[tuple[str, frozenset[str]], Route] = {}

    @property
    def targets(self) -> Collection[Target]:
        """Every target of every route, each once."""
        return self._targets.values()

    def resolve(self, alias: str, caller: Caller) -> Route:
        """Returns the caller's route for `alias`. Raises `ModelNotFound`, or `Forbidden` if the key may not use it."""
        route = self.by_alias.get(alias)
        if route is None:
            others = [name for name in self.by_alias if caller.may_use(name)]
            raise ModelNotFound(unknown_model_message(alias, others), param="model")
        if caller.models is None:
            return route
        if alias not in caller.models:
            raise Forbidden("This API key may not use the model.", param="model")
        usable = route.fallback_aliases & caller.models
        if usable == route.fallback_aliases:
            return route
        if (alias, usable) not in self._restricted:
            self._restricted[alias, usable] = self._build(alias, usable)
        return self._restricted[alias, usable]

    def states(self) -> dict[str, str]:
        """Returns each target's breaker state, by `provider/model`."""
        return {target.name: target.breaker.state for target in self._targets.values()}

    def _build(self, alias: str, usable: Set[str]) -> Route:
        """Builds the route for keys that may use only the `usable` ones of its fallback aliases."""
        models, model = self._config.models, self._config.models[alias]
        targets = tuple(self._target(target, alias) for target in model.targets)
        names = {target.name for target in targets}
        fallbacks: list[Target] = []
        fallback_aliases = set()
        for fallback in model.fallbacks:
            if isinstance(fallback, TargetConfig):
                found = [self._target(fallback, alias)]
            elif fallback not in models:
                found = [self._target(TargetConfig(provider=fallback), alias)]
            elif fallback in usable:
                fallback_aliases.add(fallback)
                found = [self._target(target, fallback) for target in models[fallback].targets]
            else:
                continue
            for target in found:
                if target.name not in names:
                    names.add(target.name)
                    fallbacks.append(target)
        route = Route(alias, targets, tuple(fallbacks), model.max_output_tokens, frozenset(fallback_aliases))
        return self._without_keyless(route)

    def _without_keyless(self, route: Route) -> Route:
        """Returns the route without targets whose provider's key is missing; with `missing_key` if it has no others."""
        keyless = {name for name, provider in self._config.providers.items() if provider.has_no_key}
        targets = tuple(target for target in route.targets if target.provider.name not in keyless)
        fallbacks = tuple(target for target in route.fallbacks if target.provider.name not in keyless)
        if not targets and not fallbacks:
            return replace(route, missing_key=missing_key_reason(self._config, route.targets[0].provider.name))
        # The first fallback takes the place of targets that are not there: alone, it is asked again.
        return replace(route, targets=targets or fallbacks[:1], fallbacks=fallbacks if targets else fallbacks[1:])

    def _target(self, target: TargetConfig, alias: str) -> Target:
        config, model = self._config.models[alias], target.model or alias
        shared = self._targets.get((target.provider, model))
        built = Target(
            self._providers[target.provider],
            model,
            target.weight,
            shared.breaker if shared else self._breaker(),
            wires(self._config.providers[target.provider], target.wire or config.wire),
            frozenset(config.drop),
            config.max_output_tokens,
        )
        self._targets.setdefault((target.provider, model), built)
        return built

    def _breaker(self) -> Breaker:
        retry = self._config.retry
        return Breaker(threshold=retry.breaker_threshold, cooldown_s=retry.breaker_cooldown_s, clock=self._clock)
