"""What a caller is told of its limits: what is left of each, and why a call was refused."""

from __future__ import annotations

from typing import Any

from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import BudgetExceeded, RateLimited, Remaining
from app.gateway.reservation import Charge


def remaining_of(charges: tuple[Charge, ...], figures: list[int], now: float) -> tuple[Remaining, ...]:
    """`figures` are the script's: of each limit what is left, and ms until it is full again (-1: with its window)."""
    rows = []
    for i, charge in enumerate(charges):
        counter = charge.counter
        left, reset_ms = figures[2 * i], figures[2 * i + 1]
        reset_s = reset_ms / 1000 if reset_ms >= 0 else counter.seconds_left(now)
        rows.append(Remaining(counter.limit.name, counter.limit.unit, counter.most, left, reset_s))
    return tuple(rows)


def refused(answer: list[Any], charges: tuple[Charge, ...], most_at_once: int | None, now: float) -> RateLimited:
    """The error for admit.lua's answer "limited"."""
    index, retry_ms = answer[1], answer[2]
    remaining = remaining_of(charges, answer[3:], now)
    if index == 0:
        return RateLimited(
            f"Too many calls at once: your plan allows {most_at_once}.",
            limit="concurrency",
            retry_after_s=retry_ms / 1000,
            remaining=remaining,
        )
    charge = charges[index - 1]
    limit, most = charge.counter.limit, charge.counter.most
    wait_s = min(retry_ms / 1000 if retry_ms >= 0 else charge.counter.seconds_left(now), MAX_RETRY_AFTER_S)
    if limit.unit == "nanousd":
        return BudgetExceeded(
            f"This call could exceed your plan's {limit.name}. Set max_tokens to reserve less, or wait for the "
            f"next {limit.period}.",
            limit=limit.name,
            retry_after_s=wait_s,
            retryable=False,
            remaining=remaining,
        )
    if charge.reserved > most:
        return RateLimited(
            f"This call alone needs about {charge.reserved} {limit.unit}; your plan's {limit.name} is {most}.",
            limit=limit.name,
            retry_after_s=MAX_RETRY_AFTER_S,
            retryable=False,
            remaining=remaining,
        )
    return RateLimited(
        f"Rate limit reached: your plan's {limit.name} is {most}.",
        limit=limit.name,
        retry_after_s=wait_s,
        retryable=retry_ms >= 0,
        remaining=remaining,
    )
