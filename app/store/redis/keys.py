"""Where in Redis things are that more than one module knows of."""

from __future__ import annotations

OUTBOX = "penstock:outbox"
NOTHING = "penstock:none"  # stands where a script wants a key that this call has no use for
READY = "penstock:ready"  # written to see whether Redis takes writes
WORKERS = "penstock:workers"  # zset: worker id → its last sign of life, Unix seconds by Redis's clock
RUNNING_CALLS = "penstock:running:"  # and an API key's id: its running calls


def reservation_key(call_id: str) -> str:
    return f"penstock:reservation:{call_id}"


def cache_entry_key(cache_key: str) -> str:
    """What follows an @ in `cache_key` tells apart callers who share the answer, but do not wait for each other."""
    return f"penstock:cache:{cache_key.partition('@')[0]}" if cache_key else NOTHING


def flight_key(cache_key: str) -> str:
    return f"penstock:flight:{cache_key}" if cache_key else NOTHING


def uncacheable_key(cache_key: str) -> str:
    """There while an answer is known to be one that is not kept."""
    return f"penstock:unkept:{cache_key.partition('@')[0]}"
