"""What upstream's answers and failures mean: status → error, httpx's errors → ours, text → JSON. Once, here."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator
from typing import Any

import httpx

from tailrace.errors import (
    MalformedRecord,
    NotFound,
    RequestRefused,
    SourceUnavailable,
    StreamStalled,
    Unauthorized,
    WorkerError,
)
from tailrace.redaction import excerpt

REFUSAL_MAX_CHARS = 65_536
"""Of an answer that refuses no more is read: what is wrong stands at its beginning."""

DIGITS_MAX = 4_000
"""A number that is longer is read as a float: nothing of ours is one."""


def refuse(status: int, body: str, what: str) -> None:
    """Turn an answer's status into our error; a 200 passes (protocol §7, "For an archiver")."""
    if status == 200:
        return
    said = f"{what}: upstream answered {status}: {excerpt(body, 300).strip() or '(empty)'}"
    if status in (401, 403):
        raise Unauthorized(
            f"{said}. Check TRIGGER_SECRET_KEY (or TAILRACE_KEYS_FILE): it must be a key of the run's own environment.",
            status=status,
        )
    if status == 404:
        raise NotFound(said)
    if status in (400, 409, 410, 422):
        raise RequestRefused(said, status=status)
    raise SourceUnavailable(said, status=status)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what httpx raises into our errors. A body that was cut off is one of them, never an end."""
    try:
        yield
    except WorkerError:
        raise
    except httpx.ReadTimeout as error:
        raise StreamStalled(f"{what}: nothing came for longer than the read timeout, not even a ping") from error
    except httpx.InvalidURL as error:
        raise RequestRefused(f"{what}: {error}") from error
    except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
        raise SourceUnavailable(f"{what}: {type(error).__name__}: {error}") from error


def whole_number(digits: str) -> int | float:
    """Read a whole number of any length: Python refuses more than 4 300 digits, and all that stands beside them."""
    return int(digits) if len(digits) <= DIGITS_MAX else float(digits)


def json_of(body: str, what: str) -> Any:
    """Decode an answer's JSON.

    Raises:
        MalformedRecord: it is none, or deeper than Python's stack.
    """
    try:
        return json.loads(body, parse_int=whole_number)
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(f"{what} is not JSON: {excerpt(body, 200)!r}") from error
