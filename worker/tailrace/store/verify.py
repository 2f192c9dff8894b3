"""Check what is stored: the accounts of streams, and that sealed ones hold what they held when they were sealed.

What is right is said by two functions of the database, for one stream: tailrace.verify_accounts and, where the stream
has a digest, tailrace.stream_digest. tailrace.suspects looks at many at once and says which of them to ask about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import exc

from tailrace.store.statements import Statements

__all__ = ["Checked", "Violation", "checked_range", "checked_streams"]

# XX: internal errors, corrupted pages and indices among them. 22: a value that is not what its column promises.
_DAMAGE_CLASSES = ("XX", "22")


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that is wrong with a stream: ``digest`` (its contents have changed), ``unreadable`` (Postgres can't
    read them), or a word of tailrace.verify_accounts. ``run_id`` and ``stream_key`` are None of a stream that does not
    exist."""

    run_id: str | None
    stream_key: str | None
    violation: str
    generation: int | None
    first_index: int | None
    last_index: int | None
    detail: str
    stream_id: int


@dataclass(frozen=True, slots=True)
class Checked:
    """How many streams were looked at, and what is wrong with them."""

    streams: int
    violations: list[Violation]


def checked_streams(statements: Statements, streams: Sequence[int]) -> Checked:
    """Check these streams, one after the other; each in a transaction of its own."""
    found = []
    for stream in streams:
        try:
            found += _violations(statements, stream)
        except exc.DBAPIError as error:
            found.append(_unreadable(statements, stream, error))
    return Checked(len(streams), found)


def checked_range(statements: Statements, first: int, end: int) -> Checked:
    """Check the streams with ids from ``first`` to before ``end``, and that no rows there lack their stream.

    All are looked at in one transaction, and those that may be wrong then in one each.
    """
    try:
        (row,) = statements.execute(
            """
            SELECT (SELECT count(*) FROM tailrace.streams s WHERE s.id >= :first AND s.id < :end) AS streams,
                   ARRAY(SELECT tailrace.suspects(:first, :end) ORDER BY 1) AS suspects
            """,
            first=first,
            end=end,
        )
    except exc.DBAPIError as error:
        return _around_damage(statements, first, end, error)
    return Checked(row.streams, checked_streams(statements, row.suspects).violations)


def _around_damage(statements: Statements, first: int, end: int, error: exc.DBAPIError) -> Checked:
    """Check a range in which something can't be read: by halves, until it is one stream.

    Raises the error when it is another, or has nothing to do with a stream.
    """
    if not _is_damage(error):
        raise error
    among = "SELECT s.id FROM tailrace.streams s WHERE s.id >= :first AND s.id < :end ORDER BY s.id"
    ids = [row.id for row in statements.execute(among, first=first, end=end)]
    if not ids:
        raise error
    if len(ids) == 1:
        return Checked(1, [_unreadable(statements, ids[0], error)])
    middle = ids[len(ids) // 2]
    lower, upper = checked_range(statements, first, middle), checked_range(statements, middle, end)
    return Checked(lower.streams + upper.streams, lower.violations + upper.violations)


def _violations(statements: Statements, stream: int) -> list[Violation]:
    rows = statements.execute(
        """
        SELECT r.run_id, s.stream_key, v.violation, v.generation, v.first_index, v.last_index, v.detail, v.stream_id
        FROM tailrace.verify_accounts(:stream) v
        LEFT JOIN tailrace.streams s ON s.id = v.stream_id
        LEFT JOIN tailrace.runs r ON r.id = s.run
        UNION ALL
        SELECT r.run_id, s.stream_key, 'digest', NULL, NULL, NULL, 'the contents are not what they were', s.id
        FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
        WHERE s.id = :stream AND s.digest <> tailrace.stream_digest(s.id)
        ORDER BY 1, 2, 4, 5
        """,
        stream=stream,
    )
    return [Violation(**row._mapping) for row in rows]


def _unreadable(statements: Statements, stream: int, error: exc.DBAPIError) -> Violation:
    if not _is_damage(error):
        raise error
    name = """SELECT r.run_id, s.stream_key FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
              WHERE s.id = :stream"""
    run_id, stream_key = next((tuple(row) for row in statements.execute(name, stream=stream)), (None, None))
    # The message without its detail, which can quote what is stored.
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or type(error.orig).__name__
    return Violation(run_id, stream_key, "unreadable", None, None, None, said, stream)


def _is_damage(error: exc.DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state is not None and state.startswith(_DAMAGE_CLASSES)
