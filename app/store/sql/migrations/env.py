"""Alembic's environment: migrations run inside the transaction that `Database.migrate` opened, all or nothing."""

from __future__ import annotations

from alembic import context

from app.store.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
)
context.run_migrations()
