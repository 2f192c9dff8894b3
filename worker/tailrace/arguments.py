"""What may be asked for, whoever asks: Python, a message, the command, a row. Pure; callers of ``.delay`` import it.

SQL has the same rule for itself (`tailrace.options_problem`, `tailrace.request_ingest`); one table of cases tests both.
No error here repeats what was given: it may be a secret, and of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeGuard

from tailrace.errors import BadArgument
from tailrace.redaction import excerpt

__all__ = [
    "BATCH_LIMITS",
    "LONGEST_NAME_BYTES",
    "Range",
    "RunRequest",
    "checked_environment",
    "checked_id",
    "checked_name",
    "checked_names",
    "checked_options",
    "checked_task",
    "run_request",
]

LONGEST_NAME_BYTES: Final = 1_000
"""Of a run id or stream key: they stand in an index, whose entries Postgres limits to 2 704 bytes."""
MOST_NAMES: Final = 10_000
"""In one request. Far more than a run has streams; a request is one row."""
LONGEST_ENVIRONMENT: Final = 100
LONGEST_TASK: Final = 500
LARGEST_ID: Final = 2**63 - 1
SHOWN_CHARACTERS: Final = 80


class Range(NamedTuple):
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int
    unit: str


BATCH_LIMITS: Final[Mapping[str, Range]] = {
    "batch_max_chunks": Range(1, 2_000, "chunks"),
    "batch_max_bytes": Range(1_024, 1_048_576, "bytes"),
    "batch_max_age_ms": Range(1, 60_000, "milliseconds"),
}
"""What a request may set for its run; settings of these names have these ranges too."""


class RunRequest(NamedTuple):
    """A request for a run that can be met. ``streams`` None: all of them. ``options``: those of `BATCH_LIMITS`."""

    run_id: str
    streams: list[str] | None
    options: dict[str, int]
    then: str | None
    environment: str | None


def run_request(
    run_id: object,
    streams: object = None,
    *,
    batch_max_chunks: object = None,
    batch_max_bytes: object = None,
    batch_max_age_ms: object = None,
    then: object = None,
    environment: object = None,
) -> RunRequest:
    """Return what the task ``ingest_run`` is asked for.

    Raises:
        BadArgument: says which argument, and what it must be.
    """
    given = zip(BATCH_LIMITS, (batch_max_chunks, batch_max_bytes, batch_max_age_ms), strict=True)
    return RunRequest(
        checked_name("run_id", run_id),
        None if streams is None else checked_names("streams", streams),
        checked_options({name: value for name, value in given if value is not None}),
        None if then is None else checked_task("then", then),
        None if environment is None else checked_environment("environment", environment),
    )


def checked_options(options: object) -> dict[str, int]:
    """Return the batch limits of a request, which may be none.

    Raises:
        BadArgument: no object, an unknown name, or a number of the wrong type or out of its range.
    """
    if not isinstance(options, Mapping):
        raise BadArgument("options must be an object")
    for name, value in options.items():
        if name not in BATCH_LIMITS:
            raise BadArgument(f"there is no option {excerpt(str(name), SHOWN_CHARACTERS)!r}")
        low, high, unit = BATCH_LIMITS[name]
        if not _is_whole(value) or not low <= value <= high:
            raise BadArgument(f"{name} must be a whole number, {low:,} to {high:,} {unit}")
    return dict(options)


def checked_name(what: str, value: object) -> str:
    """Return a run id, a stream key or the like: whatever can be sent and stored, ``../x`` and ``a b`` too.

    Raises:
        BadArgument: it is none.
    """
    if not isinstance(value, str) or not value:
        raise BadArgument(f"{what} must be a string, and not empty")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise BadArgument(f"{what} is not UTF-8: it has half of a surrogate pair") from None
    if b"\0" in encoded or len(encoded) > LONGEST_NAME_BYTES:
        raise BadArgument(f"{what} must not be longer than {LONGEST_NAME_BYTES:,} bytes and hold no NUL")
    return value


def checked_names(what: str, values: object) -> list[str]:
    """Return a list of names, of which there is at least one.

    Raises:
        BadArgument: it is none; one string is none either.
    """
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= MOST_NAMES:
        raise BadArgument(f"{what} must be a list of 1 to {MOST_NAMES:,} strings")
    return [checked_name(f"each of {what}", value) for value in values]


def checked_environment(what: str, value: object) -> str:
    """Return the name of an environment, without white space around it.

    Raises:
        BadArgument: it is none.
    """
    name = value.strip() if isinstance(value, str) else ""
    if not name or len(name) > LONGEST_ENVIRONMENT or not name.isprintable():
        raise BadArgument(f"{what} must be a string of up to {LONGEST_ENVIRONMENT} printable characters")
    return name


def checked_task(what: str, value: object) -> str:
    """Return the name of a Celery task (``task`` or ``task@queue``), without white space around it.

    Raises:
        BadArgument: it is none.
    """
    text = value.strip() if isinstance(value, str) else ""
    name, at, queue = text.partition("@")
    if not name or (at and not queue) or " " in text or not text.isprintable() or len(text) > LONGEST_TASK:
        raise BadArgument(f"{what} must be the name of a Celery task, with @queue unless its queue is `celery`")
    return text


def checked_id(what: str, value: object) -> int:
    """Return the id of a row.

    Raises:
        BadArgument: it is none.
    """
    if not _is_whole(value) or not 1 <= value <= LARGEST_ID:
        raise BadArgument(f"{what} must be a whole number, 1 to {LARGEST_ID}")
    return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
