"""`flask config`: checks the configuration."""

from __future__ import annotations

import click

from app.cli.command import Group
from app.config.serving import missing_keys
from app.settings import load_settings

config = Group("config", help="The configuration.")


@config.command("check")
def check_config() -> None:
    """Check the environment and the YAML file; one line says what is wrong."""
    settings = load_settings()
    counts = (f"{len(getattr(settings.config, section))} {section}" for section in ("providers", "models", "plans"))
    click.echo(f"OK: {settings.config_path}: {', '.join(counts)}")
    for provider, setting, models in missing_keys(settings.config):
        click.echo(f"{provider} has no API key: set {setting}. Models that cannot be served: {models}")
