"""`GET /admin/usage`: reports of usage and cost, for administrators."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode

from flask import Response, jsonify, request

from app.api import pagination
from app.api.context import services
from app.domain.csv_export import csv_text
from app.domain.timestamps import parse_timestamp
from app.errors import InvalidRequest, StatementTimeout
from app.store.reports import GROUPINGS, Grouping, total

_DEFAULT_LIMIT, _MAX_LIMIT = 1000, 10_000
_REPORT_TIMEOUT_S = 10.0
_PARAMETERS = ("by", "since", "until", "format", "limit", "offset")


def usage() -> Response:
    """Reports calls, tokens and cost by model, key, user, …, as JSON or CSV. Raises `InvalidRequest` with `param`."""
    _check_parameters()
    by = cast(Grouping, _one_of("by", GROUPINGS, "model"))
    output_format = _one_of("format", ("json", "csv"), "json")
    now = time.time()
    since, until = _moment("since", now), _moment("until", now)
    if since is not None and until is not None and since >= until:
        raise InvalidRequest("Expected a moment later than `since`: `until`.", param="until")
    limit, offset = pagination.limit(_DEFAULT_LIMIT, _MAX_LIMIT), pagination.offset()
    try:
        lines, grand_total = services().ledger.usage_page(
            by, since=since, until=until, limit=limit + 1, offset=offset, timeout_s=_REPORT_TIMEOUT_S
        )
    except StatementTimeout:
        raise InvalidRequest(
            f"This report takes more than {_REPORT_TIMEOUT_S:g} s. Ask for a shorter time: `since`.", param="since"
        ) from None
    has_more = len(lines) > limit
    rows = [line.to_dict(by) for line in lines[:limit]]
    if output_format == "csv":
        response = _csv_response(by, rows)
    else:
        sums = {name: value for name, value in grand_total.to_dict(by).items() if name not in (by, "name")}
        interval = {"since": _iso_time(since), "until": _iso_time(until)}
        response = jsonify({"object": "list", "by": by, **interval, "data": rows, "total": sums, "has_more": has_more})
    if has_more:
        query = urlencode({**request.args, "offset": offset + limit})
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return response


def _csv_response(by: Grouping, rows: list[dict[str, Any]]) -> Response:
    text = csv_text(list(total([]).to_dict(by)), [list(row.values()) for row in rows])
    response = Response(text, content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="usage-by-{by}.csv"'
    return response


def _check_parameters() -> None:
    """Raises `InvalidRequest` for an unknown one: a misspelt one would give a report of something else."""
    for name, values in request.args.lists():
        if name not in _PARAMETERS:
            expected = ", ".join(_PARAMETERS)
            raise InvalidRequest(f"Unknown parameter, expected one of {expected}: `{name[:64]}`.", param=name[:64])
        if len(values) > 1:
            raise InvalidRequest(f"Expected once: `{name}`.", param=name)


def _one_of(name: str, known: tuple[str, ...], default: str) -> str:
    value = request.args.get(name, default)
    if value not in known:
        raise InvalidRequest(f"Expected one of {', '.join(known)}: `{name}`.", param=name)
    return value


def _moment(name: str, now: float) -> float | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return parse_timestamp(text, now=now, direction=-1)
    except ValueError as exc:
        raise InvalidRequest(f"{str(exc)[0].upper()}{str(exc)[1:]}: `{name}`.", param=name) from None


def _iso_time(seconds: float | None) -> Any:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
