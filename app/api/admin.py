"""For administrators: what was used, and what it cost."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode

from flask import Response, jsonify, request

from app.api import pagination
from app.api.context import services
from app.domain.csv_export import csv_text
from app.domain.timestamps import parse_moment
from app.errors import InvalidRequest, StatementTimeout
from app.store.reports import GROUPINGS, Grouping, total

_DEFAULT_LIMIT, _MAX_LIMIT = 1000, 10_000
_REPORT_S = 10.0
_QUERY = ("by", "since", "until", "format", "limit", "offset")


def usage() -> Response:
    """Calls, tokens and cost by model, key, user, …, as JSON or CSV. Raises `InvalidRequest` naming the parameter."""
    _only_known_parameters()
    by = cast(Grouping, _one_of("by", GROUPINGS, "model"))
    style = _one_of("format", ("json", "csv"), "json")
    now = time.time()
    since, until = _moment("since", now), _moment("until", now)
    if since is not None and until is not None and since >= until:
        raise InvalidRequest("Expected a moment later than `since`: `until`.", param="until")
    limit, offset = pagination.limit(_DEFAULT_LIMIT, _MAX_LIMIT), pagination.offset()
    try:
        lines, whole = services().ledger.usage_page(
            by, since=since, until=until, limit=limit + 1, offset=offset, timeout_s=_REPORT_S
        )
    except StatementTimeout:
        raise InvalidRequest(
            f"This report takes more than {_REPORT_S:g} s. Ask for a shorter time: `since`.", param="since"
        ) from None
    more = len(lines) > limit
    shown = [line.to_dict(by) for line in lines[:limit]]
    if style == "csv":
        text = csv_text(list(total([]).to_dict(by)), [list(row.values()) for row in shown])
        answer = Response(text, content_type="text/csv; charset=utf-8")
        answer.headers["Content-Disposition"] = f'attachment; filename="usage-by-{by}.csv"'
    else:
        sums = {name: value for name, value in whole.to_dict(by).items() if name not in (by, "name")}
        answer = jsonify(
            {
                "object": "list",
                "by": by,
                "since": _stamp(since),
                "until": _stamp(until),
                "data": shown,
                "total": sums,
                "has_more": more,
            }
        )
    if more:
        query = urlencode({**request.args, "offset": offset + limit})
        answer.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return answer


def _only_known_parameters() -> None:
    """A misspelt one would give a report of something else."""
    for name, values in request.args.lists():
        if name not in _QUERY:
            expected = ", ".join(_QUERY)
            raise InvalidRequest(f"Unknown parameter, expected one of {expected}: `{name[:64]}`.", param=name[:64])
        if len(values) > 1:
            raise InvalidRequest(f"Expected once: `{name}`.", param=name)


def _one_of(name: str, known: tuple[str, ...], default: str) -> str:
    given = request.args.get(name, default)
    if given not in known:
        raise InvalidRequest(f"Expected one of {', '.join(known)}: `{name}`.", param=name)
    return given


def _moment(name: str, now: float) -> float | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return parse_moment(text, now=now, direction=-1)
    except ValueError as exc:
        raise InvalidRequest(f"{str(exc)[0].upper()}{str(exc)[1:]}: `{name}`.", param=name) from None


def _stamp(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
