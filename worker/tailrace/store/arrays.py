"""Postgres arrays as ready-made binary parameters.

psycopg writes a list one Python object at a time; the group commit sends tens of thousands of numbers, so they are
packed in one go. Layout (PostgreSQL, `array_send`): dimensions, null flag, element OID, then size and lower bound of
the dimension, then each element with its length.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from psycopg import Connection
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

INT4, INT8, FLOAT8, BOOL, TEXT, BYTEA, JSON = 23, 20, 701, 16, 25, 17, 114
_ARRAY_OF = {INT4: 1007, INT8: 1016, FLOAT8: 1022, BOOL: 1000, TEXT: 1009, BYTEA: 1001, JSON: 199}
_FIXED = {INT4: ("i", 4), INT8: ("q", 8), FLOAT8: ("d", 8), BOOL: ("?", 1)}
_NULL = struct.pack("!i", -1)


class PgArray:
    """A one-dimensional array parameter. Bind it as ``%b``."""

    __slots__ = ("data",)
    element: int

    def __init__(self, data: bytes) -> None:
        self.data = data


class Int4s(PgArray):
    element = INT4


class Int8s(PgArray):
    element = INT8


class Float8s(PgArray):
    element = FLOAT8


class Bools(PgArray):
    element = BOOL


class Texts(PgArray):
    element = TEXT


class Byteas(PgArray):
    element = BYTEA


class Jsons(PgArray):
    element = JSON


def int4s(values: Sequence[int | None]) -> Int4s:
    return Int4s(_fixed(INT4, values))


def int8s(values: Sequence[int | None]) -> Int8s:
    return Int8s(_fixed(INT8, values))


def float8s(values: Sequence[float | None]) -> Float8s:
    return Float8s(_fixed(FLOAT8, values))


def bools(values: Sequence[bool]) -> Bools:
    return Bools(_fixed(BOOL, values))


def texts(values: Sequence[str | None]) -> Texts:
    return Texts(_variable(TEXT, [None if value is None else value.encode() for value in values]))


def byteas(values: Sequence[bytes | None]) -> Byteas:
    return Byteas(_variable(BYTEA, values))


def jsons(values: Sequence[bytes | None]) -> Jsons:
    """JSON texts in UTF-8. Postgres checks each when it takes them in."""
    return Jsons(_variable(JSON, values))


def _header(element: int, count: int, has_null: bool) -> bytes:
    if count == 0:
        return struct.pack("!iii", 0, 0, element)
    return struct.pack("!iiiii", 1, int(has_null), element, count, 1)


def _fixed(element: int, values: Sequence[Any]) -> bytes:
    count = len(values)
    if None in values:
        code, size = _FIXED[element]
        pack = struct.Struct(f"!i{code}").pack
        return _header(element, count, True) + b"".join(_NULL if v is None else pack(size, v) for v in values)
    code, size = _FIXED[element]
    mixed = [size] * (2 * count)
    mixed[1::2] = values
    return _header(element, count, False) + struct.pack("!" + f"i{code}" * count, *mixed)


def _variable(element: int, values: Sequence[bytes | None]) -> bytes:
    parts = [_header(element, len(values), None in values)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(struct.pack("!i", len(value)))
            parts.append(value)
    return b"".join(parts)


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PgArray) -> Buffer:
        return obj.data


def register(connection: Connection[Any]) -> None:
    """Teach one connection to bind these arrays; nothing global is changed."""
    for array in (Int4s, Int8s, Float8s, Bools, Texts, Byteas, Jsons):
        dumper = type(f"{array.__name__}Dumper", (_ArrayDumper,), {"oid": _ARRAY_OF[array.element]})
        connection.adapters.register_dumper(array, dumper)
