"""The cost of each upstream attempt of a call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "usage_attempts",
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        *[sa.Column(name, sa.Text(), nullable=False) for name in ("provider", "upstream_model", "outcome")],
        *[
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ("prompt_tokens", "completion_tokens", "cost_nanousd")
        ],
        *[sa.Column(name, sa.Boolean(), nullable=False) for name in ("estimated", "unpriced")],
        sa.PrimaryKeyConstraint("call_id", "attempt", name="pk_usage_attempts"),
    )


def downgrade() -> None:
    op.drop_table("usage_attempts")
