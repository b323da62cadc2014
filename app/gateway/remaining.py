"""Remaining limits of a caller after a call, and the error when one of them refuses it."""

from __future__ import annotations

from app.domain.limits import Counter
from app.domain.retry_after import MAX_RETRY_AFTER_S
from app.errors import BudgetExceeded, RateLimited, Remaining
from app.store.reservations import AdmitReply, Reservation


def remaining_of(counters: tuple[Counter, ...], figures: list[int], now: float) -> tuple[Remaining, ...]:
    """Returns what is left of each limit. `figures` are `AdmitReply`'s."""
    rows = []
    for i, counter in enumerate(counters):
        left, reset_ms = figures[2 * i], figures[2 * i + 1]
        reset_s = reset_ms / 1000 if reset_ms >= 0 else counter.seconds_left(now)
        rows.append(Remaining(counter.limit.name, counter.limit.unit, counter.most, left, reset_s))
    return tuple(rows)


def refusal(reply: AdmitReply, reservation: Reservation, most_at_once: int | None, now: float) -> RateLimited:
    """Returns the error for the reply "limited"."""
    retry_ms, counters = reply.retry_ms, reservation.counters
    remaining = remaining_of(counters, reply.figures, now)
    if reply.value == 0:
        return RateLimited(
            f"Too many calls at once: your plan allows {most_at_once}.",
            limit="concurrency",
            retry_after_s=retry_ms / 1000,
            remaining=remaining,
        )
    counter = counters[reply.value - 1]
    limit, most, needed = counter.limit, counter.most, reservation.reserve[counter.index]
    wait_s = min(retry_ms / 1000 if retry_ms >= 0 else counter.seconds_left(now), MAX_RETRY_AFTER_S)
    if limit.unit == "nanousd":
        return BudgetExceeded(
            f"This call could exceed your plan's {limit.name}. Set max_tokens to reserve less, or wait for the "
            f"next {limit.period}.",
            limit=limit.name,
            retry_after_s=wait_s,
            retryable=False,
            remaining=remaining,
        )
    if needed > most:
        return RateLimited(
            f"This call alone needs about {needed} {limit.unit}; your plan's {limit.name} is {most}.",
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
