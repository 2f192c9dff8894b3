"""What upstream's answers and failures mean: status → error, httpx's errors → ours, text → JSON. Once, here."""

from __future__ import annotations

import contextlib
import json
import re
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


def _number(digits: str) -> int | float:
    """Read a whole number of any length: Python refuses more than 4 300 digits, and all that stands beside them."""
    return int(digits) if len(digits) <= DIGITS_MAX else float(digits)


_DECODER = json.JSONDecoder(parse_int=_number)
_BLANK = re.compile(r"[ \t\n\r]*")


def elements_of(body: str, what: str) -> Iterator[Any]:
    """Decode an answer that is an array, one element after the other: it can be tens of megabytes, each of them little.

    Raises:
        MalformedRecord: as `json_of`, or it is no array; after the elements before that.
    """

    def after_blank(at: int) -> int:
        found = _BLANK.match(body, at)
        return found.end() if found else at

    try:
        at = after_blank(0)
        follows = body[at]
        if follows != "[":
            raise ValueError("no array")
        at = after_blank(at + 1)
        if body[at] == "]":
            follows, at = "]", at + 1
        while follows != "]":
            element, at = _DECODER.raw_decode(body, at)
            yield element
            del element
            at = after_blank(at)
            follows, at = body[at], at + 1
            if follows == ",":
                at = after_blank(at)
            elif follows != "]":
                raise ValueError("no comma")
        if after_blank(at) != len(body):
            raise ValueError("something follows")
    except (ValueError, IndexError, RecursionError) as error:
        raise MalformedRecord(f"{what} is no JSON array: {excerpt(body, 200)!r}") from error


def json_of(body: str, what: str) -> Any:
    """Decode an answer's JSON.

    Raises:
        MalformedRecord: it is none, or deeper than Python's stack.
    """
    try:
        return json.loads(body, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(f"{what} is not JSON: {excerpt(body, 200)!r}") from error
