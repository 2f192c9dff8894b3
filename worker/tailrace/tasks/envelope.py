"""What a message must look like: as kombu keeps it in Redis, and as Celery's protocols 1 and 2 have it. Pure.

Only what Celery and kombu rely on without looking; what they refuse by themselves is theirs.
Source: kombu 5.7, ``kombu/transport/virtual/base.py``; Celery 5.7, docs/internals/protocol.rst and
``celery/worker/request.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

__all__ = ["Asked", "Malformed", "asked_by", "check_stored"]

LONGEST_ID: Final = 255
_SENT_TO: Final = ("exchange", "routing_key")
_TEXTS: Final = ("shadow", "argsrepr", "kwargsrepr", "origin", "root_id", "parent_id", "group", "eta", "expires")
"""Headers that are strings or not there."""


class Malformed(Exception):
    """A message has no shape that can be read.

    ``kind`` is the part of it that is wrong, one of few words. The text has nothing of the message in it. ``task`` is
    the name in it, which anybody may have written.
    """

    def __init__(self, kind: str, reason: str, task: object = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.task = task


class Asked(NamedTuple):
    """What a message asks of a task."""

    args: list[Any]
    kwargs: dict[str, Any]


def check_stored(raw: object) -> None:
    """Make sure of what kombu needs to make a message of what was in the list.

    Raises:
        Malformed: no envelope of kombu's.
    """
    if not isinstance(raw, dict) or not isinstance(raw.get("properties"), dict):
        raise Malformed("envelope", "it has no properties")
    properties = raw["properties"]
    if not _is_id(properties.get("delivery_tag")):
        raise Malformed("envelope", "its delivery tag is no string")
    info = properties.get("delivery_info")
    if not isinstance(info, dict) or not all(isinstance(info.get(name, 0), str | None) for name in _SENT_TO):
        raise Malformed("envelope", "it does not say where it was sent")
    for name in ("body", "content-type", "content-encoding"):
        if not isinstance(raw.get(name), str | None):
            raise Malformed("envelope", f"its {name} is no string")
    if not isinstance(raw.get("headers"), dict | None):
        raise Malformed("headers", "they are no object")


def asked_by(headers: Mapping[str, Any], payload: object, *, first_protocol: bool) -> Asked:
    """Return what a message asks for. ``payload`` is its decoded body.

    Raises:
        Malformed: neither protocol's shape.
    """
    if first_protocol or (isinstance(payload, dict) and "args" in payload):
        if not isinstance(payload, dict):
            raise Malformed("body", "it is no object")
        said = {**payload, **headers}
        args, kwargs, embed = payload.get("args", []), payload.get("kwargs", {}), payload
    else:
        if not isinstance(payload, list) or len(payload) != 3:
            raise Malformed("body", "it is not a list of arguments, keyword arguments and the rest")
        said = dict(headers)
        args, kwargs, embed = payload
    _check_headers(said)
    if not isinstance(args, list):
        raise Malformed("body", "the arguments are no list")
    if not isinstance(kwargs, dict):
        raise Malformed("body", "the keyword arguments are no object")
    if not isinstance(embed, dict):
        raise Malformed("body", "its third part is no object")
    return Asked(args, kwargs)


def _check_headers(said: Mapping[str, Any]) -> None:
    if not _is_id(said.get("id")):
        raise Malformed("headers", "the id is no string")
    for name in _TEXTS:
        if not isinstance(said.get(name), str | None):
            raise Malformed("headers", f"{name} is no string")
    for name in ("eta", "expires"):
        if not _is_moment(said.get(name)):
            raise Malformed("headers", f"{name} is no time")
    retries = said.get("retries")
    if retries is not None and (type(retries) is not int or retries < 0):
        raise Malformed("headers", "retries is no number")
    limits = said.get("timelimit")
    if limits is not None and not (
        isinstance(limits, list)
        and len(limits) == 2
        and all(type(limit) in (int, float, type(None)) for limit in limits)
    ):
        raise Malformed("headers", "timelimit is no pair of numbers")
    if not isinstance(said.get("stamped_headers"), list | None) or not isinstance(said.get("stamps"), dict | None):
        raise Malformed("headers", "the stamps are none")


def _is_moment(text: str | None) -> bool:
    if text is None:
        return True
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _is_pair(limits: object) -> bool:
    if limits is None:
        return True
    numbers = (int, float, type(None))
    return isinstance(limits, list) and len(limits) == 2 and all(type(limit) in numbers for limit in limits)


def _is_id(value: object) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_ID:
        return False
    return value.isprintable()  # no half of a surrogate pair either
