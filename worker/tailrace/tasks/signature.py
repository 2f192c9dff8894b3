"""The signature of a message: what it covers, how it is made and checked. Pure.

An HMAC-SHA-256 over everything that a worker acts on: the queue, the task and its id, when it expires, every other
header that Celery knew when the message was sent, and the bytes of the body. What was added to the headers later, and
whom to answer, is not covered, and is taken away when the message is checked, so that nobody acts on it.

A copy of a message is as good as the message: what stops a copy is that tasks are hints, that what expires expires,
and ``max_age_s``.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from kombu.utils.json import dumps, loads

from tailrace.tasks.envelope import Malformed

__all__ = ["HEADER", "Sent", "check_signature", "signature"]

HEADER: Final = "tailrace_signature"
VERSION: Final = 1
PURPOSE: Final = "tailrace message"
"""The same key, used for something else, makes no signature that fits."""
AHEAD_S: Final = 300
"""How far the clock of a sender may be ahead of ours."""
MOST_HEADERS: Final = 200
_BODY_ENCODING: Final = "base64"


class Sent(NamedTuple):
    """What is known of a message when it is sent, and again when it is taken."""

    queue: str
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    content_type: str
    content_encoding: str
    body: bytes


def signature(key: bytes, sent: Sent, at: int) -> dict[str, Any]:
    """Return the value of `HEADER`. ``at``: seconds since 1970."""
    names = sorted(name for name in sent.headers if name != HEADER)
    return {"v": VERSION, "at": at, "headers": names, "mac": _mac(key, _covered(sent, names, at), sent.body)}


def check_signature(
    raw: dict[str, Any],
    queue: str,
    keys: Sequence[bytes],
    now: float,
    *,
    max_age_s: float | None = None,
    unsigned: bool = False,
) -> bool:
    """Make sure that one of ``keys`` signed this message for this queue; take away the headers that it did not cover.

    Returns whether it is signed: with ``unsigned``, one that has no signature is taken too, as it is.

    ``raw`` is what kombu keeps in Redis, of a shape that `envelope.check_stored` lets through. The body is not decoded
    further than to its bytes.

    Raises:
        Malformed: no signature, one that does not fit, or one that is older than ``max_age_s``.
    """
    headers = raw.get("headers") or {}
    found = headers.get(HEADER)
    if found is None:
        if unsigned:
            return False
        raise _refused(headers, "it is not signed")
    names, at, mac = _parts(headers, found)
    info = raw["properties"].get("delivery_info") or {}
    if "compression" in headers or raw["properties"].get("body_encoding") != _BODY_ENCODING:
        raise _refused(headers, "its body is compressed, or not in base64")
    try:
        body = base64.b64decode(raw.get("body") or "")
    except (binascii.Error, ValueError):
        raise _refused(headers, "its body is not in base64") from None
    sent = Sent(
        queue,
        info.get("exchange") or "",
        info.get("routing_key") or "",
        headers,
        raw.get("content-type") or "",
        raw.get("content-encoding") or "",
        body,
    )
    try:
        covered = _covered(sent, names, at)
    except (TypeError, ValueError, RecursionError):
        raise _refused(headers, "what it covers can't be written as JSON") from None
    # All of them, whichever fits: how long it takes tells nothing.
    if not sum(hmac.compare_digest(_mac(key, covered, body), mac) for key in keys):
        raise _refused(headers, "it does not fit: another key, another queue, or the message was changed")
    if at - now > AHEAD_S or (max_age_s is not None and now - at > max_age_s):
        raise _refused(headers, "it is too old, or of the future")
    raw["headers"] = {name: headers[name] for name in (*names, HEADER)}
    # Beside the headers, and not covered. Nobody asks Tailrace's tasks for an answer.
    for name in ("reply_to", "correlation_id"):
        raw["properties"].pop(name, None)
    return True


def _parts(headers: Mapping[str, Any], found: object) -> tuple[list[str], int, str]:
    """Return the headers that are covered, when it was signed, and the code."""
    if isinstance(found, dict) and found.get("v") == VERSION:
        names, at, mac = found.get("headers"), found.get("at"), found.get("mac")
        if (
            isinstance(names, list)
            and len(names) <= MOST_HEADERS
            and all(isinstance(name, str) and name in headers for name in names)
            and type(at) is int
            and isinstance(mac, str)
            and mac.isascii()
        ):
            return names, at, mac
    raise _refused(headers, "its signature is of no kind that is known here")


def _covered(sent: Sent, names: Sequence[str], at: int) -> bytes:
    """Return what is signed before the body: one line of JSON, so that no two messages have the same."""
    # As they come out at the other end: JSON has no keys but texts, and they are sorted.
    headers = loads(dumps({name: sent.headers[name] for name in names}))  # type: ignore[no-untyped-call]
    line = [PURPOSE, VERSION, at, sent.queue, sent.exchange, sent.routing_key, sent.content_type, sent.content_encoding]
    return dumps([*line, headers], sort_keys=True).encode() + b"\n"  # type: ignore[no-untyped-call,no-any-return]


def _mac(key: bytes, covered: bytes, body: bytes) -> str:
    code = hmac.new(key, covered, "sha256")
    code.update(body)
    return code.hexdigest()


def _refused(headers: Mapping[str, Any], reason: str) -> Malformed:
    return Malformed("signature", reason, headers.get("task"))
