"""The command line: `flask --app app keys | usage | ledger | config | models | chat | jobs | batches | installation`.

A module for each command, thin over the services. An error is one line on stderr and exit code 1.
"""

from __future__ import annotations

from flask import Flask

from app.cli.batches import batches
from app.cli.chat import chat
from app.cli.command import is_command, one_line_errors
from app.cli.config import config
from app.cli.installation import installation
from app.cli.jobs import jobs
from app.cli.keys import keys
from app.cli.ledger import ledger
from app.cli.models import models
from app.cli.usage import usage

__all__ = ["is_command", "one_line_errors", "register"]


def register(app: Flask) -> None:
    for command in (keys, usage, ledger, config, models, chat, jobs, batches, installation):
        app.cli.add_command(command)
