"""Run by Alembic, with the connection and the transaction that `Database.migrate` opened."""

from __future__ import annotations

from alembic import context

from app.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
    # One transaction for all versions, on both databases: a migration that fails leaves nothing half done.
    transactional_ddl=True,
)
context.run_migrations()
