"""The views as SQLAlchemy models, for reading: ``select(Chunk).where(Chunk.run_id == ...)``. Needs only SQLAlchemy.

docs/sql.md describes the columns; a test compares both with the database. The models have no relationships and their
metadata is their own, so no migration tool of a host application sees them::

    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import Session
    from tailrace.store.views import RunOverview

    with Session(create_engine("postgresql+psycopg://...")) as session:
        for run in session.scalars(select(RunOverview).where(RunOverview.verdict != "complete")):
            print(run.run_id, run.verdict)
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ARRAY, BigInteger, DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import BYTEA, DOUBLE_PRECISION, JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Chunk", "Gap", "MessagePart", "Quarantined", "ReadModel", "RunOverview", "StreamStats", "StreamText"]

_TIME = DateTime(timezone=True)


class ReadModel(DeclarativeBase):
    """The base of the models, with metadata of its own."""

    metadata = MetaData(schema="tailrace")
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: BigInteger,
        datetime: _TIME,
        float: DOUBLE_PRECISION,
        bytes: BYTEA,
        list[str]: ARRAY(Text),
    }


class Chunk(ReadModel):
    """A chunk of a stream. ``data_text`` is what upstream sent, byte for byte."""

    __tablename__ = "chunks"

    environment: Mapped[str]
    run_id: Mapped[str]
    stream_key: Mapped[str]
    generation: Mapped[int] = mapped_column(primary_key=True)
    chunk_index: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(JSON)
    data_text: Mapped[str]
    data_jsonb: Mapped[Any | None] = mapped_column(JSONB)
    type: Mapped[str | None]
    text_delta: Mapped[str | None]
    emitted_at: Mapped[datetime | None]
    committed_at: Mapped[datetime]
    stream_id: Mapped[int] = mapped_column(primary_key=True)


class StreamText(ReadModel):
    """The text of a stream."""

    __tablename__ = "stream_text"

    environment: Mapped[str]
    run_id: Mapped[str]
    stream_key: Mapped[str]
    generation: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str | None]
    stream_id: Mapped[int] = mapped_column(primary_key=True)


class StreamStats(ReadModel):
    """How a stream went."""

    __tablename__ = "stream_stats"

    environment: Mapped[str]
    run_id: Mapped[str]
    stream_key: Mapped[str]
    task_identifier: Mapped[str | None]
    state: Mapped[str]
    verdict: Mapped[str]
    chunks: Mapped[int]
    bytes: Mapped[int]
    first_chunk_at: Mapped[datetime | None]
    last_chunk_at: Mapped[datetime | None]
    first_chunk_s: Mapped[float | None]
    first_text_s: Mapped[float | None]
    duration_s: Mapped[float | None]
    chunks_per_s: Mapped[float | None]
    longest_stall_s: Mapped[float | None]
    stalled_before: Mapped[int | None]
    text_chunks: Mapped[int]
    text_characters: Mapped[int]
    chunk_types: Mapped[list[str]]
    lag: Mapped[int | None]
    last_error: Mapped[str | None]
    stream_id: Mapped[int] = mapped_column(primary_key=True)
    verdict_reason: Mapped[str | None]


class RunOverview(ReadModel):
    """A run and the sums over its streams."""

    __tablename__ = "run_overview"

    environment: Mapped[str]
    run_id: Mapped[str]
    task_identifier: Mapped[str | None]
    status: Mapped[str | None]
    tags: Mapped[list[str]]
    created_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    state: Mapped[str]
    verdict: Mapped[str]
    streams: Mapped[int]
    sealed: Mapped[int]
    chunks: Mapped[int]
    bytes: Mapped[int]
    gaps: Mapped[int]
    quarantined: Mapped[int]
    lag: Mapped[int | None]
    last_committed_at: Mapped[datetime | None]
    requested_at: Mapped[datetime]
    sealed_at: Mapped[datetime | None]
    pruned_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    run: Mapped[int] = mapped_column(primary_key=True)
    verdict_reason: Mapped[str | None]


class MessagePart(ReadModel):
    """A part of an AI SDK message."""

    __tablename__ = "message_parts"

    environment: Mapped[str]
    run_id: Mapped[str]
    stream_key: Mapped[str]
    generation: Mapped[int] = mapped_column(primary_key=True)
    message: Mapped[int]
    superseded: Mapped[bool]
    step: Mapped[int]
    first_index: Mapped[int] = mapped_column(primary_key=True)
    last_index: Mapped[int]
    kind: Mapped[str]
    part_id: Mapped[str | None]
    text: Mapped[str | None]
    tool_call_id: Mapped[str | None]
    tool_name: Mapped[str | None]
    state: Mapped[str | None]
    input: Mapped[Any | None] = mapped_column(JSON)
    output: Mapped[Any | None] = mapped_column(JSON)
    error_text: Mapped[str | None]
    data: Mapped[Any | None] = mapped_column(JSON)
    first_at: Mapped[datetime | None]
    last_at: Mapped[datetime | None]
    stream_id: Mapped[int] = mapped_column(primary_key=True)
    raw_input: Mapped[str | None]
    refused: Mapped[bool]


class Gap(ReadModel):
    """A loss."""

    __tablename__ = "gaps"

    environment: Mapped[str]
    run_id: Mapped[str]
    stream_key: Mapped[str]
    generation: Mapped[int] = mapped_column(primary_key=True)
    first_index: Mapped[int] = mapped_column(primary_key=True)
    last_index: Mapped[int | None]
    lost: Mapped[int | None]
    reason: Mapped[str] = mapped_column(primary_key=True)
    detected_at: Mapped[datetime]
    stream_id: Mapped[int] = mapped_column(primary_key=True)


class Quarantined(ReadModel):
    """Something that could not be a chunk, raw."""

    __tablename__ = "quarantined"

    environment: Mapped[str]
    run_id: Mapped[str]
    stream_key: Mapped[str]
    generation: Mapped[int] = mapped_column(primary_key=True)
    chunk_index: Mapped[int] = mapped_column(primary_key=True)
    reason: Mapped[str]
    raw: Mapped[bytes] = mapped_column(primary_key=True)
    detected_at: Mapped[datetime]
    stream_id: Mapped[int] = mapped_column(primary_key=True)
