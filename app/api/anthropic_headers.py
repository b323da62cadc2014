"""Headers of Anthropic's API: those of a request that its vendors get to see, and those of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.errors import Remaining

_FORWARDED = "HTTP_ANTHROPIC_"
_UNITS = ("requests", "tokens")


def forwarded_headers(environ: Mapping[str, Any]) -> bytes:
    """Returns the request's `anthropic-*` headers as lines that end in CRLF: versions, betas, and unknown ones."""
    lines = []
    for name, value in environ.items():
        if name.startswith(_FORWARDED) and value.isascii() and value.isprintable():
            lines.append(f"{name.removeprefix('HTTP_').replace('_', '-').lower()}: {value}\r\n")
    return "".join(lines).encode("ascii")


def answer_headers(request_id: str, remaining: Iterable[Remaining] = ()) -> list[tuple[str, str]]:
    """Returns the id of the request, and what is left of the limits on requests and tokens."""
    headers = [("request-id", request_id)]
    tightest: dict[str, Remaining] = {}
    for row in remaining:
        found = tightest.get(row.unit)
        if found is None or row.left < found.left:
            tightest[row.unit] = row
    for unit in _UNITS:
        if unit in tightest:
            row = tightest[unit]
            reset = datetime.now(UTC) + timedelta(seconds=row.reset_s)
            headers += (
                (f"anthropic-ratelimit-{unit}-limit", str(row.most)),
                (f"anthropic-ratelimit-{unit}-remaining", str(row.left)),
                (f"anthropic-ratelimit-{unit}-reset", reset.strftime("%Y-%m-%dT%H:%M:%SZ")),
            )
    return headers
