"""The ledger, its roll-up, the keys and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_nanousd")


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "usage",
        *_text("call_id", "request_id"),
        sa.Column("ts", sa.Double(), nullable=False),
        *_text("key_id", "user", "tenant", "model", "provider", "upstream_model", "endpoint", "status"),
        sa.Column("http_status", sa.Integer(), nullable=False),
        *_counts(*_COUNTS),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("ttft_ms", sa.Double()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *_text("cache"),
        sa.Column("streamed", sa.Boolean(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("unpriced", sa.Boolean(), nullable=False),
        sa.Column("job_id", sa.Text()),
        *_text("tags"),
        sa.PrimaryKeyConstraint("call_id", name="pk_usage"),
    )
    op.create_index("ix_usage_ts", "usage", ["ts"])
    op.create_index("ix_usage_request_id", "usage", ["request_id"])
    op.create_table(
        "usage_daily",
        *_text("day", "key_id", "model", "provider"),
        *_counts("calls", "errors", *_COUNTS),
        sa.PrimaryKeyConstraint("day", "key_id", "model", "provider", name="pk_usage_daily"),
    )
    op.create_table(
        "dead_letter",
        *_text("digest"),
        sa.Column("ts", sa.Double(), nullable=False),
        *_text("reason", "row"),
        sa.PrimaryKeyConstraint("digest", name="pk_dead_letter"),
    )
    op.create_index("ix_dead_letter_ts", "dead_letter", ["ts"])
    op.create_table(
        "api_keys",
        *_text("key_id", "key_hash", "prefix", "name", "role", "plan"),
        sa.Column("models", sa.Text()),
        *_text("tenant"),
        sa.Column("expires_at", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
    )
    op.create_index("ix_api_keys_updated_at", "api_keys", ["updated_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("ts", sa.Double(), nullable=False),
        *_text("actor", "action", "subject", "detail"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_ts", "audit", ["ts"])


def downgrade() -> None:
    for table in ("audit", "api_keys", "dead_letter", "usage_daily", "usage"):
        op.drop_table(table)
