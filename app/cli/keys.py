"""`flask keys`: create, list and revoke API keys."""

from __future__ import annotations

import time

import click

from app.cli.command import Group, services
from app.cli.rendering import format_option, moment_option, render_rows, utc_text
from app.config.gateway import GatewayConfig
from app.domain.csv_export import Cell
from app.domain.identity import DEFAULT_PLAN, Role
from app.store.keys import KeyInfo

keys = Group("keys", help="API keys.")


@keys.command("create")
@click.option("--name", required=True, help="Who or what the key is for.")
@click.option("--plan", default=DEFAULT_PLAN, show_default=True, help="A plan of the configuration: the key's limits.")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.USER.value, show_default=True)
@click.option("--models", help="Comma-separated models that the key may use; all when left out.")
@click.option("--expires", help="As in 30d or 2027-01-01 (UTC); never when left out.")
def create_key(name: str, plan: str, role: str, models: str | None, expires: str | None) -> None:
    """Create a key and print it, once, alone on the last line."""
    found = services()
    _check_plan(found.settings.config, plan)
    models_allowed = _allowed_models(found.settings.config, models)
    now = time.time()
    expires_at = None if expires is None else moment_option(expires, option="--expires", now=now, direction=1)
    if expires_at is not None and expires_at <= now:
        raise click.ClickException(f"--expires: {expires} is in the past")
    key, info = found.keys.create(name, plan=plan, role=Role(role), models=models_allowed, expires_at=expires_at)
    click.echo(f"{info.key_id} ({info.name}), plan {info.plan}. The key is shown only now:", err=True)
    click.echo(key)


@keys.command("list")
@format_option
def list_keys(style: str) -> None:
    """List the keys, the oldest first."""
    header = ("key_id", "name", "prefix", "role", "plan", "models", "status", "created", "expires")
    now = time.time()
    click.echo(render_rows(header, [_row(info, now) for info in services().keys.list()], style))


@keys.command("revoke")
@click.argument("key_id")
def revoke_key(key_id: str) -> None:
    """End a key for good, by its id."""
    info = services().keys.revoke(key_id, "cli")
    click.echo(f"Revoked {info.key_id} ({info.name}).")


def _check_plan(config: GatewayConfig, plan: str) -> None:
    if config.plan_of(plan) is None:
        raise click.ClickException(f"--plan: no plan {plan!r}; expected one of: {', '.join(sorted(config.plans))}")


def _allowed_models(config: GatewayConfig, models: str | None) -> list[str] | None:
    if models is None:
        return None
    names = [name.strip() for name in models.split(",")]
    for name in names:
        if name not in config.models:
            known = ", ".join(sorted(config.models))
            raise click.ClickException(f"--models: no model {name!r}; expected some of: {known}")
    return names


def _row(info: KeyInfo, now: float) -> list[Cell]:
    status = "active"
    if info.revoked_at is not None:
        status = "revoked"
    elif info.expires_at is not None and info.expires_at <= now:
        status = "expired"
    models = "" if info.models is None else ",".join(info.models)
    created, expires = utc_text(info.created_at), utc_text(info.expires_at)
    return [info.key_id, info.name, info.prefix, info.role.value, info.plan, models, status, created, expires]
