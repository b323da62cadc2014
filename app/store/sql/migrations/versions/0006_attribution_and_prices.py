"""The session and agent of a call, the prices that it was computed by, and the cost that its vendor reported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COUNTS = ("file_searches", "images", "characters")
_TEXTS = ("inference_geo", "price_version", "session", "agent")
_COSTS = ("reported_cost_nanousd", "computed_cost_nanousd")


def upgrade() -> None:
    for name in _COUNTS:
        op.add_column("usage", sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    for name in _TEXTS:
        op.add_column("usage", sa.Column(name, sa.Text(), nullable=False, server_default=sa.text("''")))
    for name in _COSTS:
        op.add_column("usage", sa.Column(name, sa.BigInteger()))


def downgrade() -> None:
    for name in (*_COSTS, *_TEXTS, *_COUNTS):
        op.drop_column("usage", name)
