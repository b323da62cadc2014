"""Files and batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _times(*names: str, nullable: bool) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double(), nullable=nullable) for name in names]


def upgrade() -> None:
    op.create_table(
        "files",
        *_text("file_id", "key_id", "purpose", "filename"),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        *_times("created_at", "expires_at", nullable=False),
        sa.PrimaryKeyConstraint("file_id", name="pk_files"),
    )
    op.create_index("ix_files_key_id", "files", ["key_id"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_table(
        "batches",
        *_text("batch_id", "key_id", "key_hash", "status", "endpoint", "input_file_id"),
        *[sa.Column(name, sa.Text()) for name in ("output_file_id", "error_file_id", "metadata", "errors")],
        *[sa.Column(name, sa.Integer(), nullable=False) for name in ("output_ttl_s", "total", "completed", "failed")],
        *_times("created_at", "expires_at", nullable=False),
        *_times(
            "in_progress_at",
            "finalizing_at",
            "completed_at",
            "failed_at",
            "expired_at",
            "cancelling_at",
            "cancelled_at",
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batches"),
    )
    op.create_index("ix_batches_key_id", "batches", ["key_id"])
    op.create_index("ix_batches_status", "batches", ["status"])
    op.create_index("ix_batches_input_file_id", "batches", ["input_file_id"])


def downgrade() -> None:
    op.drop_table("batches")
    op.drop_table("files")
