"""File descriptors: the process's limit, and the number of clients' connections that it allows."""

from __future__ import annotations

import resource

_RESERVE = 256  # files, Redis, the database, idle connections to providers, and libraries' own
_PER_CALL = 2  # its client's connection and its vendor's


def raise_limit() -> int:
    """Raises the soft limit of this process, and of those it starts, to the hard one. Returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections_within(limit: int, most: int) -> int:
    """Returns the number of clients that one process may serve at once, at most `most`: each may run a call."""
    if limit == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, (limit - min(_RESERVE, limit // 2)) // _PER_CALL))
