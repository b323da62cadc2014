"""The tables of the database. A change here needs a migration: a test compares the two.

Money is whole nano-dollars. Times are Unix seconds (UTC) as doubles: a row carries them so from the worker that
stamped it, they compare and index the same in SQLite, which has no date type, and in PostgreSQL, and no driver
can shift them by a time zone. A day is its ISO date in UTC, which sorts as text.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, Table, Text, text

# Names are spelt out so that a later migration can drop what an earlier one made, on either database.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(column_0_label)s",
    }
)

# Quantities that most calls have none of. A process of the version before writes rows without these columns.
_RARE_QUANTITIES = (
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
    "file_searches",
    "images",
    "characters",
)

# One row a call. The call id is the primary key, so that no row can be written twice. The request id is the one that
# the client saw; a client may choose it, and choose the same one twice.
usage = Table(
    "usage",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("ts", Double, nullable=False),  # when the call began
    Column("key_id", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("model", Text, nullable=False),  # the alias; for `auto`, the one that was picked
    Column("provider", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("status", Text, nullable=False),  # ok, error, aborted, lost
    Column("http_status", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),
    Column("latency_ms", Double, nullable=False),
    Column("ttft_ms", Double),  # NULL when no token came
    Column("attempts", Integer, nullable=False),
    Column("cache", Text, nullable=False),  # hit, miss, bypass
    Column("streamed", Boolean, nullable=False),
    Column("estimated", Boolean, nullable=False),  # the provider sent no usage: counted by us
    Column("unpriced", Boolean, nullable=False),  # without a known price: the cost of 0 is not a fact
    Column("job_id", Text),
    Column("tags", Text, nullable=False),  # what was done to the call, as in `route=code optimized=trimmed`, or empty
    # The rest of what its cost was computed from, beside the tokens above: see `domain.usage.Usage`.
    Column("service_tier", Text, nullable=False, server_default=text("''")),
    *(Column(name, BigInteger, nullable=False, server_default=text("0")) for name in _RARE_QUANTITIES),
    Column("inference_geo", Text, nullable=False, server_default=text("''")),
    Column("price_version", Text, nullable=False, server_default=text("''")),  # the price list that was used
    # Both are NULL where the vendor reports no cost. `cost_nanousd` is one of them: see `trust_reported_cost`.
    Column("reported_cost_nanousd", BigInteger),
    Column("computed_cost_nanousd", BigInteger),
    # A conversation of a coding agent or a chat, and an agent within it, as the caller named them.
    Column("session", Text, nullable=False, server_default=text("''")),
    Column("agent", Text, nullable=False, server_default=text("''")),
    # Reports read whole days from the roll-up and only the ends of a range from here.
    Index("ix_usage_ts", "ts"),
    Index("ix_usage_request_id", "request_id"),
)

# The attempts of a call that was tried more than once, or whose answer never came: one row for each that a provider may
# bill. Together they are the call's tokens and cost. Any other call has none: `usage` says all there is.
usage_attempts = Table(
    "usage_attempts",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),  # from 1, in order
    Column("provider", Text, nullable=False),
    Column("upstream_model", Text, nullable=False),
    Column("outcome", Text, nullable=False),  # ok, aborted, error, lost; timeout_first_byte, cut, client_gone, …
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("unpriced", Boolean, nullable=False),
)

# The roll-up of `usage`, kept exact in the transaction that writes the rows.
usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),  # calls with status error or lost
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),
)

# Rows that could not be read, kept for a human. The digest of the row is the key, so a retry adds nothing.
dead_letter = Table(
    "dead_letter",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("ts", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("row", Text, nullable=False),
    Index("ix_dead_letter_ts", "ts"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("key_hash", Text, nullable=False, unique=True),  # SHA-256, hex; the key itself is nowhere
    Column("prefix", Text, nullable=False),  # the key's first characters, to recognise it by
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("models", Text),  # JSON list of aliases; none means every model
    Column("tenant", Text, nullable=False),
    Column("expires_at", Double),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("updated_at", Double, nullable=False),
    Index("ix_api_keys_updated_at", "updated_at"),
)

# The audit trail: one row a change.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("ts", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON
    Index("ix_audit_ts", "ts"),
)

# Files below DATA_DIR/files, each named by its id.
files = Table(
    "files",
    metadata,
    Column("file_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),  # the owner's
    Column("purpose", Text, nullable=False),  # batch, batch_output
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("ix_files_key_id", "key_id"),
    Index("ix_files_expires_at", "expires_at"),
)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("key_hash", Text, nullable=False),  # of the key that its lines are run as
    Column("status", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("metadata", Text),  # JSON
    Column("errors", Text),  # JSON: the reasons of a failure
    Column("output_ttl_s", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("completed_at", Double),
    Column("failed_at", Double),
    Column("expired_at", Double),
    Column("cancelling_at", Double),
    Column("cancelled_at", Double),
    Index("ix_batches_key_id", "key_id"),
    Index("ix_batches_status", "status"),
    Index("ix_batches_input_file_id", "input_file_id"),
)

# One row: the id of the installation that the database belongs to. DATA_DIR and Redis have the same id.
installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1
    Column("installation_id", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)
