"""What `tailrace serve` asks the archive of one environment, and of the streams that its readers follow.

One function a statement. What is asked again and again is asked once for all readers of a process, however many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from tailrace.store.contents import Part, StreamPlace, read_part
from tailrace.store.run_end import OVER
from tailrace.store.statements import Statements, refusing

PART_CHUNKS = 1_000
PART_BYTES = 131_072
"""A slow reader holds what became of one part until its socket has taken it, and all that read may be slow."""
FOLLOWED_BYTES = 65_536
"""Of one segment: a larger one is told of, and read like anything else."""


class ArchivedRun(NamedTuple):
    """A run as the archive has it. ``status`` is the API's name; ``wire`` None: none of its streams was ever read.

    ``version`` changes with every change of its row. ``stream_keys`` in the order in which they were found.
    """

    id: int
    run_id: str
    status: str
    task_identifier: str | None
    tags: Sequence[str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    stream_keys: Sequence[str]
    wire: str | None
    over: bool
    version: str


@dataclass(frozen=True, slots=True)
class RunsAsked:
    """Which runs, and in which order; what is None asks for nothing.

    ``since`` and ``until``: created within. ``any_tag``: has one of these; ``all_tags``: has each. ``statuses``: by the
    API's names. ``beyond``: in the order that is asked for, only what comes after this creation and run id; ``at`` what
    comes there or after it.
    """

    newest_first: bool = True
    since: datetime | None = None
    until: datetime | None = None
    tasks: Sequence[str] | None = None
    any_tag: Sequence[str] | None = None
    all_tags: Sequence[str] = ()
    statuses: Sequence[str] | None = None
    beyond: tuple[datetime, str] | None = None
    at: tuple[datetime, str] | None = None
    limit: int | None = None

    @property
    def order(self) -> str:
        """In SQL, of a run r: as the index runs_created_at_idx has it."""
        turn = "DESC" if self.newest_first else "ASC"
        return f'r.environment_id {turn}, r.created_at {turn}, r.run_id COLLATE "C" {turn}'

    @property
    def conditions(self) -> str:
        """In SQL, of a run r, with `parameters` and :environment. Only what is asked for: so an index can be chosen."""
        way = "<" if self.newest_first else ">"
        place = '(r.created_at, r.run_id COLLATE "C")'
        asked = {
            "r.created_at >= :since": self.since,
            "r.created_at <= :until": self.until,
            "r.task_identifier = ANY(:tasks)": self.tasks,
            "r.tags && CAST(:any_tag AS text[])": self.any_tag,
            "r.tags @> CAST(:all_tags AS text[])": self.all_tags or None,
            "r.status = ANY(:statuses)": self.statuses,
            f"{place} {way} (:place_at, :place_id)": self.beyond,
            f"{place} {way}= (:place_at, :place_id)": self.at,
        }
        return " AND ".join([_SHOWN, *(sql for sql, value in asked.items() if value is not None)])

    @property
    def parameters(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("since", "until")}
        values |= {
            name: None if (words := getattr(self, name)) is None else list(words)
            for name in ("tasks", "any_tag", "all_tags", "statuses")
        }
        values["place_at"], values["place_id"] = self.beyond or self.at or (None, None)
        return {name: value for name, value in values.items() if value is not None}


class StreamNow(NamedTuple):
    """A stream as it is at one moment. ``ends``: for each generation before the present one, how many indices it had.

    ``last_ms``: upstream's time of the newest chunk of the present generation; None: it has none.
    """

    place: StreamPlace
    last_ms: int | None
    ends: tuple[int, ...]


class Moment(NamedTuple):
    """What could be seen in the database at one moment.

    Of every transaction it tells whether that was committed: those from ``xmax`` on were not, nor ``in_progress``.
    All are numbers as `segments.change_id` has them. ``server`` names the server by its start, and how it counts: of
    another one they say nothing. A ``standby`` does not know which were under way.
    """

    xmin: int
    xmax: int
    in_progress: tuple[int, ...]
    server: tuple[datetime, int]
    standby: bool


class NewSegment(NamedTuple):
    """A segment that was committed. ``data`` None: it is large, or needs care, and is read like anything else."""

    stream_id: int
    generation: int
    first_index: int
    last_index: int
    data: bytes | None
    emitted_ms: Sequence[int]


class Serving:
    """Reads one archive. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def check(self) -> None:
        """Ask something, to see that there is an archive that can be read.

        Raises:
            NotMigrated: there is none.
            QueryRefused: this account may not read it.
        """
        with refusing():
            self.now()

    # --- runs

    def run(self, environment: str, run_id: str) -> ArchivedRun | None:
        """Read a run; None when nobody asked for it, or upstream has not shown it yet."""
        rows = self._statements.execute(
            f"{_RUN} WHERE r.run_id = :run_id AND {_SHOWN}",
            environment=environment,
            run_id=run_id,
        )
        return ArchivedRun._make(rows[0]) if rows else None

    def runs(self, environment: str, asked: RunsAsked) -> tuple[list[ArchivedRun], bool]:
        """Read runs in the order that is asked for, and whether there are more than the limit."""
        rows = self._statements.execute(
            f"{_RUN} WHERE {asked.conditions} ORDER BY {asked.order} LIMIT :most",
            environment=environment,
            most=None if asked.limit is None else asked.limit + 1,
            **asked.parameters,
        )
        found = [ArchivedRun._make(row) for row in rows]
        return found[: asked.limit], asked.limit is not None and len(found) > asked.limit

    def any_run(self, environment: str, asked: RunsAsked) -> bool:
        """Return whether there is such a run."""
        return bool(
            self._statements.execute(
                f"SELECT FROM tailrace.runs r WHERE {asked.conditions} ORDER BY {asked.order} LIMIT 1",
                environment=environment,
                **asked.parameters,
            )
        )

    def run_versions(self, runs: Sequence[int]) -> dict[int, str]:
        """Read the present `ArchivedRun.version` of runs; those that were forgotten are left out."""
        rows = self._statements.execute(
            "SELECT r.id, r.xmin::text AS version FROM tailrace.runs r WHERE r.id = ANY(:runs)", runs=list(runs)
        )
        return {row.id: row.version for row in rows}

    def noted_lately(self, environments: Sequence[str]) -> dict[str, dict[int, str]]:
        """Read the runs of environments of which something was noted within the last minute: id and version."""
        rows = self._statements.execute(
            """
            SELECT e.name, r.id, r.xmin::text AS version
            FROM tailrace.environments e JOIN tailrace.runs r ON r.environment_id = e.id
            -- Nothing is noted of any other run.
            WHERE e.name = ANY(:environments) AND r.state IN ('requested', 'watched')
              AND r.keys_read_at > now() - interval '1 minute'
            """,
            environments=list(environments),
        )
        found: dict[str, dict[int, str]] = {name: {} for name in environments}
        for row in rows:
            found[row.name][row.id] = row.version
        return found

    def runs_noted_since(self, environment: str, since: datetime) -> list[ArchivedRun]:
        """Read the runs of which something was noted after this moment, as far as they are watched still."""
        rows = self._statements.execute(
            f"""
            SELECT * FROM (
                {_RUN} WHERE {_SHOWN} AND r.state IN ('requested', 'watched')
                  AND r.keys_read_at > :since - interval '5 minutes' -- for two clocks: the other times are upstream's
            ) r WHERE r.updated_at > :since
            """,
            environment=environment,
            since=since,
        )
        return [ArchivedRun._make(row) for row in rows]

    def runs_of(self, environment: str, runs: Sequence[int]) -> list[ArchivedRun]:
        """Read runs by the ids of their rows."""
        rows = self._statements.execute(
            f"{_RUN} WHERE {_SHOWN} AND r.id = ANY(:runs)", environment=environment, runs=list(runs)
        )
        return [ArchivedRun._make(row) for row in rows]

    def is_forgotten(self, environment: str, run_id: str) -> bool:
        """Return whether a run was forgotten, and must not be shown again wherever else it still is."""
        return bool(
            self._statements.execute(
                """
                SELECT FROM tailrace.forgotten f JOIN tailrace.environments e ON e.id = f.environment_id
                WHERE e.name = :environment AND f.run_hash = tailrace.run_hash(:run_id)
                """,
                environment=environment,
                run_id=run_id,
            )
        )

    # --- streams

    def streams_found(self, sought: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
        """Read the ids of streams by environment, run id and key; those that the archive does not have are left out."""
        environments, run_ids, keys = zip(*sought, strict=True)
        rows = self._statements.execute(
            """
            SELECT q.environment, q.run_id, q.stream_key, s.id
            FROM unnest(CAST(:environments AS text[]), CAST(:run_ids AS text[]), CAST(:keys AS text[]))
                AS q (environment, run_id, stream_key)
            JOIN tailrace.environments e ON e.name = q.environment
            JOIN tailrace.runs r ON r.run_id = q.run_id AND r.environment_id = e.id
            JOIN tailrace.streams s ON s.run = r.id AND s.stream_key = q.stream_key
            """,
            environments=list(environments),
            run_ids=list(run_ids),
            keys=list(keys),
        )
        return {(row.environment, row.run_id, row.stream_key): row.id for row in rows}

    def streams_now(self, streams: Sequence[int]) -> dict[int, StreamNow]:
        """Read how streams are now; those that were forgotten are left out."""
        rows = self._statements.execute(
            """
            SELECT s.id, s.wire, s.generation, s.last_chunk_index, s.cursor, s.state,
                (SELECT g.emitted_ms[cardinality(g.emitted_ms)] FROM tailrace.segments g
                 -- The two bounds say which partitions there are to plan for.
                 WHERE g.stream_id = s.id AND g.stream_id BETWEEN :lowest AND :highest AND g.generation = s.generation
                 ORDER BY g.first_index DESC LIMIT 1) AS last_ms,
                (SELECT array_agg(h.first_index ORDER BY h.generation) FROM tailrace.holes h
                 WHERE h.stream_id = s.id AND h.generation < s.generation AND h.reason = 'recreated') AS ends
            FROM tailrace.streams_now s WHERE s.id = ANY(:streams)
            """,
            streams=list(streams),
            lowest=min(streams),
            highest=max(streams),
        )
        return {
            row.id: StreamNow(StreamPlace._make(tuple(row)[:6]), row.last_ms, tuple(row.ends or ())) for row in rows
        }

    def checkpoints(self, streams: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Read generation and index of the rows of streams, behind which more can be stored; cheap."""
        rows = self._statements.execute(
            "SELECT s.id, s.generation, s.last_chunk_index FROM tailrace.streams s WHERE s.id = ANY(:streams)",
            streams=list(streams),
        )
        return {row.id: (row.generation, row.last_chunk_index) for row in rows}

    def part(self, place: StreamPlace, generation: int, first_index: int) -> Part | None:
        """Read a part of a stream up to a checkpoint of it; None: there is no more."""
        with self._statements.connected() as connection:
            return read_part(connection, place, generation, first_index, PART_CHUNKS, PART_BYTES)

    def last_before(self, stream: int, emitted_ms: int) -> tuple[int, int] | None:
        """Find the last chunk of a stream that upstream dates before this moment: generation and index."""
        rows = self._statements.execute(
            """
            SELECT g.generation, g.first_index + coalesce(c.index_offset, c.n - 1) AS chunk_index
            FROM (
                SELECT * FROM tailrace.segments g WHERE g.stream_id = :stream AND g.emitted_ms[1] < :emitted_ms
                ORDER BY g.generation DESC, g.first_index DESC LIMIT 1
            ) g CROSS JOIN LATERAL ROWS FROM (unnest(g.emitted_ms), unnest(g.index_offsets))
                WITH ORDINALITY AS c (ms, index_offset, n)
            WHERE c.ms < :emitted_ms ORDER BY c.n DESC LIMIT 1
            """,
            stream=stream,
            emitted_ms=emitted_ms,
        )
        return (rows[0].generation, rows[0].chunk_index) if rows else None

    # --- what was committed

    def now(self) -> Moment:
        """Read what can be seen now."""
        (row,) = self._statements.execute(f"SELECT {_MOMENT}")
        return _moment(row)

    def committed(self, before: Moment, streams: Sequence[int]) -> tuple[Moment, list[NewSegment]]:
        """Read the segments of these streams that can be seen now and could not before, in the order of each stream.

        Exact whatever the order of commits: a transaction is new when it was under way then or has begun since. One
        that stays open holds nothing back.
        """
        rows = self._statements.execute(
            f"""
            SELECT {_MOMENT}, n.* FROM (SELECT) one LEFT JOIN (
                SELECT g.stream_id, g.generation, g.first_index, g.last_index,
                    CASE WHEN NOT g.odd AND g.index_offsets IS NULL AND octet_length(g.data::text) <= :most_bytes
                        THEN g.data::text END AS data,
                    g.emitted_ms
                FROM tailrace.segments g
                WHERE g.stream_id = ANY(:streams) AND g.stream_id BETWEEN :lowest AND :highest
                  AND (g.change_id >= :since OR g.change_id = ANY(CAST(:in_progress AS bigint[])))
            ) n ON true
            ORDER BY n.stream_id, n.generation, n.first_index
            """,
            streams=list(streams),
            lowest=min(streams),
            highest=max(streams),
            since=before.xmin if before.standby else before.xmax,
            in_progress=list(before.in_progress),
            most_bytes=FOLLOWED_BYTES,
        )
        new = [
            NewSegment(
                row.stream_id,
                row.generation,
                row.first_index,
                row.last_index,
                None if row.data is None else row.data.encode(),
                row.emitted_ms,
            )
            for row in rows
            if row.stream_id is not None
        ]
        return _moment(rows[0]), new


# A run that upstream has shown.
_SHOWN = """
r.environment_id = (SELECT e.id FROM tailrace.environments e WHERE e.name = :environment)
AND r.status IS NOT NULL AND r.created_at IS NOT NULL
"""

# The columns of `ArchivedRun`. Upstream shows times in milliseconds. When a run was last updated is here when that was
# last seen: it never goes back.
_RUN = f"""
SELECT
    r.id, r.run_id, r.status, r.task_identifier, r.tags, r.created_at, r.started_at, r.finished_at,
    date_trunc('milliseconds', greatest(r.keys_read_at, r.created_at, r.started_at, r.finished_at)) AS updated_at,
    t.stream_keys, t.wire, coalesce({OVER}, false) AS over, r.xmin::text AS version
FROM tailrace.runs r
CROSS JOIN LATERAL (
    SELECT
        coalesce(array_agg(s.stream_key ORDER BY s.id), '{{}}') AS stream_keys,
        (array_agg(s.wire ORDER BY s.id DESC) FILTER (WHERE s.wire IS NOT NULL))[1] AS wire
    FROM tailrace.streams s WHERE s.run = r.id
) t
"""

_MOMENT = """
(pg_snapshot_xmin(pg_current_snapshot())::text)::bigint AS xmin,
(pg_snapshot_xmax(pg_current_snapshot())::text)::bigint AS xmax,
ARRAY(SELECT (x::text)::bigint FROM pg_snapshot_xip(pg_current_snapshot()) x) AS in_progress,
pg_postmaster_start_time() AS server_start, pg_is_in_recovery() AS standby, tailrace.changes_base() AS base
"""


def _moment(row: sa.Row[Any]) -> Moment:
    base = row.base
    in_progress = tuple(each + base for each in row.in_progress)
    return Moment(row.xmin + base, row.xmax + base, in_progress, (row.server_start, base), row.standby)
