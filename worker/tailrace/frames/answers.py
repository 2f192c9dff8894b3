"""Any query's answer as record batches: Postgres writes CSV, Arrow reads it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
from psycopg import sql
from pyarrow import csv

from tailrace.store.ad_hoc import described

__all__ = ["of_query"]

PART_BYTES = 8 << 20

_ARROW = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "numeric": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", tz="UTC"),
}
_IN_LISTS = {name: _ARROW[name] for name in ("bool", "int2", "int4", "int8", "float8")} | {"text": pa.string()}


def of_query(
    connection: psycopg.Connection[Any], statement: str, parameters: Sequence[Any] | Mapping[str, Any] | None
) -> Iterator[pa.RecordBatch]:
    """Run one query and read its answer, in parts.

    Raises:
        psycopg.Error, `store.statements.QueryRefused`: it is wrong, or no query.
        pa.ArrowException: a value has no place in the column of its type: ``infinity`` is no time.
    """
    if parameters is not None:
        statement = psycopg.ClientCursor(connection).mogrify(statement, parameters)
    statement = statement.strip().rstrip(";")
    names, oids = described(connection, statement)
    columns = [_column(connection, oid) for oid in oids]
    schema = pa.schema([(name, column.arrow) for name, column in zip(_distinct(names), columns, strict=True)])
    empty = True
    with connection.cursor().copy(_copy(statement, columns)) as rows:
        for part in _parts(rows):
            yield _batch(part, columns, schema)
            empty = False
    if empty:
        yield pa.RecordBatch.from_pylist([], schema=schema)


class _Column(NamedTuple):
    """How a column is asked for, and what is made of its text: ``value``, or nothing more than Arrow does by itself."""

    arrow: Any
    expression: str = "{}"
    value: Callable[[str], Any] | None = None


def _column(connection: psycopg.Connection[Any], oid: int) -> _Column:
    known = connection.adapters.types.get(oid)
    if known is None:
        return _Column(pa.string())
    if oid == known.array_oid:
        of = _IN_LISTS.get("text" if known.name == "varchar" else known.name)
        if of is not None:
            return _Column(pa.list_(of), "to_json({})", json.loads)
    elif known.name == "bytea":
        return _Column(pa.binary(), "encode({}, 'base64')", base64.b64decode)
    elif known.name in _ARROW:
        return _Column(_ARROW[known.name])
    return _Column(pa.string())


def _copy(statement: str, columns: list[_Column]) -> sql.Composed:
    inner = [sql.Identifier(f"c{number}") for number in range(len(columns))]
    asked = [sql.SQL(column.expression).format(name) for column, name in zip(columns, inner, strict=True)]
    return sql.SQL("COPY (SELECT {} FROM (\n{}\n) AS q ({})) TO STDOUT WITH (FORMAT csv, FORCE_QUOTE *)").format(
        sql.SQL(", ").join(asked),
        sql.SQL(statement),
        sql.SQL(", ").join(inner),
    )


def _parts(rows: psycopg.Copy) -> Iterator[bytes]:
    """Put rows together, of which each is whole."""
    part, size = [], 0
    for row in rows:
        part.append(row)
        size += len(row)
        if size >= PART_BYTES:
            yield b"".join(part)
            part, size = [], 0
    if part:
        yield b"".join(part)


def _batch(part: bytes, columns: list[_Column], schema: Any) -> pa.RecordBatch:
    names = [f"c{number}" for number in range(len(columns))]
    read = csv.read_csv(
        pa.BufferReader(part),
        csv.ReadOptions(column_names=names, block_size=len(part) + 1),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types={
                name: column.arrow if column.value is None else pa.string()
                for name, column in zip(names, columns, strict=True)
            },
            # A null is nothing at all, and an empty text has its quotes.
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    ).combine_chunks()
    arrays = []
    for found, column in zip(read.columns, columns, strict=True):
        whole = found.chunk(0) if found.num_chunks == 1 else pa.concat_arrays(found.chunks)
        if column.value is not None:
            values = [None if text is None else column.value(text) for text in whole.to_pylist()]
            whole = pa.array(values, column.arrow)
        arrays.append(whole)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _distinct(names: list[str]) -> list[str]:
    """Return names of which none is there twice."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct
