"""`flask batches`: the operator's decisions about batches."""

from __future__ import annotations

import time

import click
import msgspec

from app.cli.command import Group, services
from app.domain.batch import UNFINISHED_STATUSES
from app.errors import NotFound

batches = Group("batches", help="Batches, of all keys.")
_RESULTS_LOST = {"code": "results_lost", "message": "The results of this batch were lost.", "param": None, "line": None}


@batches.command("fail")
@click.argument("batch_id")
def fail_batch(batch_id: str) -> None:
    """End BATCH_ID as failed, because its files will not come back. No queue worker ever does that by itself."""
    values = {"status": "failed", "failed_at": time.time(), "errors": msgspec.json.encode([_RESULTS_LOST]).decode()}
    if not batch_id.isascii() or not services().batches.update(batch_id, UNFINISHED_STATUSES, **values):
        raise NotFound(f"There is no unfinished batch {batch_id!r}.")
    click.echo(f"{batch_id} has failed. Results that are found of it stay in DATA_DIR/batches.")
