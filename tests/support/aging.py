"""Ageing of what Redis stores, in place of time that passes: it keeps its own clock, which no test can step."""

from __future__ import annotations

from app.store.redis.client import Redis


def let_pass(redis: Redis, seconds: float) -> None:
    """Signs of life and deadlines are as they will be in so many seconds (or, below zero, were)."""
    _shift(redis, b"penstock:workers", -seconds)
    for calls in redis.execute("KEYS", "penstock:reservations:*"):
        _shift(redis, calls, -seconds * 1000)


def set_clock_back(redis: Redis, seconds: float) -> None:
    """As `let_pass` the other way, and rates were last written in the future too."""
    let_pass(redis, -seconds)
    for key in redis.execute("KEYS", "penstock:limit:*_per_minute"):
        parts = [str(int(part) + int(seconds * 1e6)) for part in redis.execute("GET", key).decode().split(".")]
        redis.execute("SET", key, ".".join(parts), "PX", int(seconds * 1000) + 60_000)


def _shift(redis: Redis, key: bytes, by: float) -> None:
    for member in redis.execute("ZRANGE", key, 0, -1):
        redis.execute("ZINCRBY", key, by, member)
