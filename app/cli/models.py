"""`flask models`: lists the configured models, and tries each of their targets with small calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import click
from gevent.pool import Pool

from app.cli.command import Group, services
from app.cli.rendering import format_option, render_rows
from app.config.gateway import GatewayConfig
from app.config.serving import unavailable_reason
from app.domain.csv_export import Cell
from app.domain.money import format_usd
from app.domain.suggestions import unknown_model_message
from app.gateway.probes import FEATURES, Probe, Prober
from app.gateway.routes import Route, Target

_AT_ONCE = 8
_HEADER = ("model", "target", "reachable", "latency_ms", "prompt", "completion", *FEATURES, "cost_usd", "errors")
_NUMBERS = ("latency_ms", "prompt", "completion", "cost_usd", "context_window", "max_output_tokens")

models = Group("models", help="The models, and whether their providers answer.")


@models.command("list")
@format_option
def list_models(style: str) -> None:
    """Windows, prices in US dollars per million tokens, and capabilities."""
    config, facts = services().settings.config, services().model_facts
    header = ("model", "kind", "context_window", "max_output_tokens", "prompt", "completion", "capabilities", "missing")
    rows: list[list[Cell]] = []
    for alias, model in config.models.items():
        known = facts.describe(alias)
        prices = known["prices"] or {}
        rows.append(
            [
                alias,
                model.kind,
                known["context_window"],
                known["max_output_tokens"],
                prices.get("prompt"),
                prices.get("completion"),
                " ".join(known["capabilities"] or ()),
                unavailable_reason(config, alias),
            ]
        )
    click.echo(render_rows(header, rows, style, right=_NUMBERS))


@models.command("test")
@click.argument("name", required=False)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1, 600), default=30.0, show_default=True, help="In seconds."
)
@click.option("--quick", is_flag=True, help="Only one call to each target: not what its model can do.")
@format_option
@click.pass_context
def test_models(context: click.Context, name: str | None, timeout_s: float, quick: bool, style: str) -> None:
    """Make a small call to each target of NAME, or of every model, and show what works.

    The calls cost what the table says. They are booked to no key, and are not in the ledger. The exit code is 1 if a
    target does not answer.
    """
    found = services()
    config = found.settings.config
    if name is not None and name not in config.models:
        raise click.ClickException(unknown_model_message(name, list(config.models)))
    prober = Prober(pricing=found.pricing, timeout_s=timeout_s)
    routes = found.router.routes
    named = {name: routes[name]} if name is not None else routes
    features = {} if quick else FEATURES
    jobs = []
    pool = Pool(_AT_ONCE)
    for alias, target in _targets(named):
        embeds = config.models[alias].kind == "embedding"
        probe = partial(prober.embedding, target) if embeds else partial(prober.chat, target, features)
        jobs.append((alias, target, pool.spawn(probe)))
    rows = [_row(alias, target, job.get()) for alias, target, job in jobs]
    rows += [_keyless_row(config, alias) for alias, route in named.items() if route.missing_key]
    click.echo(render_rows(_HEADER, rows, style, right=_NUMBERS))
    if any(row[2] == "no" for row in rows) or (name is not None and routes[name].missing_key):
        context.exit(1)


def _targets(routes: Mapping[str, Route]) -> Iterator[tuple[str, Target]]:
    """Yields each target once, under the first of the models that it serves."""
    seen = set()
    for alias, route in routes.items():
        for target in () if route.missing_key else route.all_targets:
            if target.name not in seen:
                seen.add(target.name)
                yield alias, target


def _row(alias: str, target: Target, probe: Probe) -> list[Cell]:
    card = services().pricing.rate_card(target.provider.name, target.model)
    return [
        alias,
        probe.target,
        "yes" if probe.reachable else "no",
        round(probe.latency_s * 1000),
        None if card is None else format_usd(card.tiers[0].prompt),
        None if card is None else format_usd(card.tiers[0].completion),
        *(probe.works.get(feature) for feature in FEATURES),
        None if probe.cost_nanousd is None else format_usd(probe.cost_nanousd),
        "; ".join(probe.errors),
    ]


def _keyless_row(config: GatewayConfig, alias: str) -> list[Cell]:
    """Returns the row of a model that cannot be asked: not a failure, unless it was asked for."""
    return [alias, None, "not asked", *[None] * (len(_HEADER) - 4), unavailable_reason(config, alias)]
