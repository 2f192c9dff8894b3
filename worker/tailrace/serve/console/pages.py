"""How a page is made: its template, the words for numbers and times in it, and the headers of every answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from tailrace import amounts
from tailrace.serve.console.indent import indented
from tailrace.serve.console.visitors import Visitor

__all__ = ["HEADERS", "STATIC", "path_of", "query", "render", "run_path", "static"]

HERE: Final = Path(__file__).parent
STATIC: Final = {
    each.name: (each.read_bytes(), kind, f'"{hashlib.sha256(each.read_bytes()).hexdigest()[:32]}"')
    for each in sorted((HERE / "static").iterdir())
    if (kind := {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}.get(each.suffix))
}
"""Files that pages load, what they are, and a mark of each that changes with it."""

HEADERS: Final = {
    # Nothing is loaded but from here, nothing that stands in a page runs, and no other page shows ours in a frame.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # ids of runs are nobody else's
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def render(
    request: Request, template: str, visitor: Visitor | None, values: Mapping[str, Any], status: int = 200
) -> Response:
    """Make a page. Whatever ``values`` hold is text in it."""
    page = _TEMPLATES.get_template(template).render(values, visitor=visitor, here=path_of(request.scope))
    return Response(page, status, HEADERS, "text/html")


def static(request: Request, name: str) -> Response:
    """Answer with a file that pages load; without it, to a browser that has it."""
    content, kind, mark = STATIC[name]
    headers = {**HEADERS, "cache-control": "no-cache", "etag": mark}
    if request.headers.get("if-none-match") == mark:
        return Response(None, 304, headers)
    return Response(content, 200, headers, kind)


def path_of(scope: Scope) -> str:
    """Return the path of a request as it was sent: an encoded slash is part of a segment."""
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw_path.decode("latin-1").partition("?")[0]


def run_path(environment: str, run_id: str, *more: str) -> str:
    """Return the address of a run, or of something of it."""
    return "/".join(["/console/runs", *(quote(each, safe="") for each in (environment, run_id, *more))])


def query(**values: object) -> str:
    """Return a query, with the values that are not None and not empty."""
    said = urlencode({name: str(value) for name, value in values.items() if value not in (None, "")})
    return f"?{said}" if said else ""


def _size(number: int) -> str:
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if amount >= 99.5 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _clock(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def _ago(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return f"{amounts.span(max(0.0, (datetime.now(UTC) - moment).total_seconds()))} ago"


def _iso(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).isoformat()


def _words(name: str) -> str:
    return name.replace("_", " ")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(
    count=amounts.count,
    span=amounts.span,
    rate=amounts.rate,
    size=_size,
    moment=_moment,
    clock=_clock,
    ago=_ago,
    iso=_iso,
    words=_words,
    indented=indented,
)
_TEMPLATES.globals.update(run_path=run_path, query=query)
