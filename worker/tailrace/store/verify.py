"""Check what is stored: the accounts of streams, and that sealed ones hold what they held when they were sealed."""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.store.statements import Statements

__all__ = ["Violation", "verified"]


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that is wrong with a stream: ``digest`` (its contents have changed), or a word of
    tailrace.verify_accounts."""

    run_id: str | None
    stream_key: str | None
    violation: str
    generation: int | None
    first_index: int | None
    last_index: int | None
    detail: str


def verified(statements: Statements, streams: list[int] | None) -> tuple[int, list[Violation]]:
    """Check these streams, None: all; return how many were checked, and what is wrong."""
    found = []
    for stream in [None] if streams is None else streams:
        rows = statements.execute(
            """
            SELECT r.run_id, s.stream_key, v.violation, v.generation, v.first_index, v.last_index, v.detail
            FROM tailrace.verify_accounts(CAST(:stream AS bigint)) v
            LEFT JOIN tailrace.streams s ON s.id = v.stream_id
            LEFT JOIN tailrace.runs r ON r.id = s.run
            UNION ALL
            SELECT r.run_id, s.stream_key, 'digest', NULL, NULL, NULL, 'the contents are not what they were'
            FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
            WHERE s.digest IS NOT NULL AND (CAST(:stream AS bigint) IS NULL OR s.id = :stream)
              AND s.digest <> tailrace.stream_digest(s.id)
            ORDER BY 1, 2, 4, 5
            """,
            stream=stream,
        )
        found += [Violation(**row._mapping) for row in rows]
    if streams is not None:
        return len(streams), found
    return int(statements.execute("SELECT count(*) AS n FROM tailrace.streams")[0].n), found
