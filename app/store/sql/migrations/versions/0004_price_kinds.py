"""The service tier and the rarer kinds of tokens and fees that a call's cost was computed from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DETAILS = (
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_prompt_tokens",
    "audio_cached_tokens",
    "audio_completion_tokens",
    "image_prompt_tokens",
    "image_cached_tokens",
    "image_completion_tokens",
    "video_prompt_tokens",
    "video_completion_tokens",
    "citation_tokens",
    "searches",
    "audio_seconds",
)


def upgrade() -> None:
    op.add_column("usage", sa.Column("service_tier", sa.Text(), nullable=False, server_default=sa.text("''")))
    for name in _DETAILS:
        op.add_column("usage", sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    for name in (*_DETAILS, "service_tier"):
        op.drop_column("usage", name)
