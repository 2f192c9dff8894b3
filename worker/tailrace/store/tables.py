"""A picture of the schema: the tables as they stand after the last migration.

The migrations make the schema (migrations/); this is for queries and for comparing. A test keeps both alike. Views and
functions are in migrations/sql.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import BYTEA, DOUBLE_PRECISION, TSVECTOR

from tailrace.model import OPEN_STATES, HoleReason, RunEvent, RunState, StreamState, Verdict, Wire

__all__ = [
    "SCHEMA",
    "backfills",
    "discoveries",
    "environments",
    "exported",
    "facts",
    "forgotten",
    "holes",
    "metadata",
    "outbox",
    "quarantine",
    "runs",
    "search",
    "segments",
    "streams",
    "workers",
]

SCHEMA = "tailrace"

# Postgres' own names for constraints and indexes.
metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)


_LOST = frozenset(reason for reason in HoleReason if reason.lost)


def _in(column: str, words: type[StrEnum] | frozenset[Any]) -> str:
    """``column IN ('a', 'b')`` in the order in which the words are declared."""
    declared = words if isinstance(words, type) else [word for word in type(next(iter(words))) if word in words]
    return f"{column} IN ({', '.join(repr(word.value) for word in declared)})"


def _now(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))


def _time(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True))


def _count(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


environments = Table(
    "environments",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text),
    Column("api_url", Text, nullable=False),
    _time("halted_at"),
    Column("halted_reason", Text),
    _now("created_at"),
    UniqueConstraint("name"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("pool", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    _now("started_at"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    postgresql_with={"fillfactor": 50},
)

runs = Table(
    "runs",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, server_default=text("tailrace.next_id()")),
    Column("environment_id", Integer, ForeignKey(environments.c.id), nullable=False),
    Column("run_id", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'requested'")),
    Column("status", Text),
    Column("task_identifier", Text),
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _time("created_at"),
    _time("started_at"),
    _time("finished_at"),
    Column("attributes", JSON(none_as_null=True)),
    Column("selection", ARRAY(Text)),
    Column("options", JSON, nullable=False, server_default=text("'{}'")),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    _now("requested_at"),
    _time("terminal_at"),
    _time("keys_read_at"),
    _now("next_watch_at"),
    Column("watch_attempt", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    _time("sealed_at"),
    Column("then_tasks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    _time("pruned_at"),
    _time("listed_at"),
    _time("late_check_at"),
    UniqueConstraint("run_id", "environment_id"),
    CheckConstraint("run_id <> ''", name="run_id"),
    CheckConstraint(_in("state", RunState), name="state"),
    CheckConstraint("priority IN (0, 1)", name="priority"),
    Index(
        "runs_watch_idx",
        "next_watch_at",
        postgresql_where=text(_in("state", frozenset({RunState.REQUESTED, RunState.WATCHED}))),
    ),
    Index(None, "environment_id"),
    Index("runs_tags_idx", "tags", postgresql_using="gin"),
    Index(
        "runs_late_check_idx",
        "late_check_at",
        postgresql_where=text("state = 'sealed' AND late_check_at > sealed_at"),
    ),
    postgresql_with={"fillfactor": 80, "autovacuum_vacuum_scale_factor": 0.05},
)

streams = Table(
    "streams",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, server_default=text("tailrace.next_id()")),
    Column("run", BigInteger, ForeignKey(runs.c.id, ondelete="CASCADE"), nullable=False),
    Column("stream_key", Text, nullable=False),
    Column("wire", Text),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("last_chunk_index", BigInteger, nullable=False, server_default=text("-1")),
    Column("cursor", JSON(none_as_null=True)),
    _count("rev"),
    Column("state", Text, nullable=False, server_default=text("'pending'")),
    Column("verdict", Text, nullable=False, server_default=text("'open'")),
    _count("chunk_count"),
    _count("byte_count"),
    _count("hole_count"),
    _count("lost_count"),
    _count("quarantine_count"),
    Column("lag", BigInteger),
    Column("worker_id", Uuid),
    _count("token"),
    _time("hinted_until"),
    Column("hinted_by", Uuid),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    _now("next_attempt_at"),
    Column("last_error", Text),
    _time("swept_at"),
    Column("swept_index", BigInteger),
    _time("first_chunk_at"),
    _time("last_chunk_at"),
    _time("sealed_at"),
    Column("digest", BYTEA),
    Column("recent", BYTEA),
    _now("created_at"),
    _time("compacted_at"),
    _time("indexed_at"),
    Column("keep_error", Text),
    _time("not_before"),
    UniqueConstraint("run", "stream_key"),
    CheckConstraint(_in("wire", Wire), name="wire"),
    CheckConstraint(_in("state", StreamState), name="state"),
    CheckConstraint(_in("verdict", Verdict), name="verdict"),
    CheckConstraint("generation >= 0 AND last_chunk_index >= -1", name="checkpoint"),
    CheckConstraint("worker_id IS NULL OR " + _in("state", OPEN_STATES), name="lease"),
    Index("streams_attempt_idx", "next_attempt_at", postgresql_where=text(_in("state", OPEN_STATES))),
    Index(
        "streams_keep_idx",
        "id",
        postgresql_where=text(
            "state = 'sealed' AND keep_error IS NULL AND (compacted_at IS NULL OR indexed_at IS NULL)"
        ),
    ),
    postgresql_with={
        "fillfactor": 50,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 500,
        "autovacuum_vacuum_cost_delay": 1,
    },
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("run", BigInteger, ForeignKey(runs.c.id, ondelete="CASCADE"), nullable=False),
    Column("event", Text, nullable=False),
    _now("created_at"),
    _now("next_attempt_at"),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    _time("sent_at"),
    Column("broker", Text),
    Column("last_error", Text),
    CheckConstraint(_in("event", RunEvent), name="event"),
    Index("outbox_due_idx", "next_attempt_at", postgresql_where=text("sent_at IS NULL")),
    Index(None, "run"),
)

segments = Table(
    "segments",
    metadata,
    Column("stream_id", BigInteger, nullable=False, autoincrement=False),
    Column("generation", Integer, nullable=False, autoincrement=False),
    Column("first_index", BigInteger, nullable=False, autoincrement=False),
    Column("last_index", BigInteger, nullable=False),
    Column("chunk_count", Integer, nullable=False),
    Column("data", JSON, nullable=False),
    Column("emitted_ms", ARRAY(BigInteger), nullable=False),
    Column("index_offsets", ARRAY(Integer)),
    Column("odd", Boolean, nullable=False, server_default=text("false")),
    Column("marks", BYTEA),
    _now("committed_at"),
    Column("committed", ARRAY(DateTime(timezone=True))),
    Column("change_id", BigInteger, server_default=text("pg_current_xact_id()::text::bigint")),
    Column("change_ids", ARRAY(BigInteger)),
    PrimaryKeyConstraint("stream_id", "generation", "first_index"),
    CheckConstraint("generation >= 0 AND first_index >= 0 AND last_index >= first_index", name="range"),
    CheckConstraint(
        "chunk_count BETWEEN 1 AND 2000 AND cardinality(emitted_ms) = chunk_count"
        " AND array_position(emitted_ms, NULL) IS NULL",
        name="count",
    ),
    CheckConstraint("json_array_length(data) = chunk_count", name="data"),
    CheckConstraint(
        "CASE WHEN index_offsets IS NULL"
        " THEN last_index - first_index = chunk_count - 1"
        " ELSE cardinality(index_offsets) = chunk_count"
        " AND index_offsets[1] = 0 AND index_offsets[chunk_count] = last_index - first_index END",
        name="offsets",
    ),
    Index("segments_change_id_idx", "change_id"),
    Index(
        "segments_changes_idx",
        text("tailrace.span_of_changes(change_ids)"),
        postgresql_using="gist",
        postgresql_where=text("change_ids IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (stream_id)",
)

holes = Table(
    "holes",
    metadata,
    Column("stream_id", BigInteger, nullable=False, autoincrement=False),
    Column("generation", Integer, nullable=False, autoincrement=False),
    Column("first_index", BigInteger, nullable=False, autoincrement=False),
    Column("last_index", BigInteger),
    Column("reason", Text, nullable=False),
    _now("detected_at"),
    PrimaryKeyConstraint("stream_id", "generation", "first_index", "reason"),
    CheckConstraint(_in("reason", HoleReason), name="reason"),
    CheckConstraint(
        "generation >= 0 AND first_index >= 0 AND"
        f" CASE WHEN last_index IS NULL THEN {_in('reason', _LOST)} ELSE last_index >= first_index END",
        name="range",
    ),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("stream_id", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("chunk_index", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("raw", BYTEA, nullable=False),
    _now("detected_at"),
    Index(None, "stream_id", "generation", "chunk_index"),
)

facts = Table(
    "facts",
    metadata,
    Column(
        "stream_id", BigInteger, ForeignKey(streams.c.id, ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    _time("first_emitted_at"),
    _time("last_emitted_at"),
    _time("first_text_at"),
    Column("longest_stall_s", DOUBLE_PRECISION),
    Column("stalled_before", BigInteger),
    Column("text_chunks", BigInteger, nullable=False),
    Column("text_characters", BigInteger, nullable=False),
    Column("chunk_types", ARRAY(Text), nullable=False),
)

search = Table(
    "search",
    metadata,
    Column("stream_id", BigInteger, ForeignKey(streams.c.id, ondelete="CASCADE"), nullable=False),
    Column("generation", Integer, nullable=False, autoincrement=False),
    Column("piece", Integer, nullable=False, autoincrement=False),
    Column("words", TSVECTOR, nullable=False),
    PrimaryKeyConstraint("stream_id", "generation", "piece"),
    Index("search_words_idx", "words", postgresql_using="gin"),
)

forgotten = Table(
    "forgotten",
    metadata,
    Column("environment_id", Integer, ForeignKey(environments.c.id), nullable=False, autoincrement=False),
    Column("run_hash", BYTEA, nullable=False),
    _now("forgotten_at"),
    Column("exports", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("environment_id", "run_hash"),
)

exported = Table(
    "exported",
    metadata,
    Column("target", Text, nullable=False),
    Column("stream_id", BigInteger, nullable=False, autoincrement=False),
    Column("run", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("chunk_count", BigInteger, nullable=False),
    Column("digest", BYTEA, nullable=False),
    _now("exported_at"),
    _time("verified_at"),
    PrimaryKeyConstraint("target", "stream_id"),
    Index(None, "run"),
)

backfills = Table(
    "backfills",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("environment_id", Integer, ForeignKey(environments.c.id), nullable=False),
    Column("filters", JSON, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'running'")),
    Column("cursor", Text),
    _count("pages"),
    _count("seen"),
    _count("requested"),
    _count("token"),
    _time("leased_until"),
    _now("next_page_at"),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    _now("started_at"),
    _time("finished_at"),
    CheckConstraint("state IN ('running', 'done', 'failed', 'cancelled')", name="state"),
    Index("backfills_next_page_idx", "next_page_at", postgresql_where=text("state = 'running'")),
)

discoveries = Table(
    "discoveries",
    metadata,
    Column("environment_id", Integer, ForeignKey(environments.c.id), nullable=False, autoincrement=False),
    Column("rule", Text, nullable=False),
    Column("covered_to", DateTime(timezone=True), nullable=False),
    _now("next_look_at"),
    _now("next_scan_at"),
    _count("found"),
    Column("last_error", Text),
    PrimaryKeyConstraint("environment_id", "rule"),
)
