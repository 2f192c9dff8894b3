"""One query of a person's: checked first, in a read-only transaction, its rows streamed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Loader

from tailrace.store.statements import QueryRefused, Statements, refusal, refusing

__all__ = ["Rows", "ad_hoc", "described"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer to a query. ``json`` marks the columns that hold JSON, whose values are its text, as stored.

    Intervals are Postgres' text, and so are times that Python has no value for (``infinity``, a year not of 1 to 9999).
    """

    columns: list[str]
    json: list[bool]
    rows: Iterator[tuple[Any, ...]]


@contextmanager
def ad_hoc(statements: Statements, query: str, timeout_s: float) -> Iterator[Rows]:
    """Run one query in a read-only transaction and stream its rows; ``%`` and ``:`` in it mean nothing.

    Raises:
        QueryRefused: it is wrong, writes, is more than one statement, returns no rows, or takes longer than
            ``timeout_s`` (0: no limit).
        StoreUnavailable
    """
    with refusing(), statements.streaming() as cursor:
        connection = cursor.connection
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{round(timeout_s * 1000)}ms"])
            columns, types = described(connection, query)
            json_types = {connection.adapters.types[name].oid for name in ("json", "jsonb")}
            for name in ("json", "jsonb", "interval"):
                cursor.adapters.register_loader(name, _Text)
            for name in _TIMES:
                _take_all(cursor, name)
            try:
                # Closed first, also when not all rows were taken: the connection is locked as long as it streams.
                with closing(_generator(cursor.stream(query.encode()))) as rows:
                    yield Rows(columns, [each in json_types for each in types], rows)
            except psycopg.errors.ReadOnlySqlTransaction as error:  # elsewhere this says: ask the new primary
                raise refusal(error) from error


class _Text(Loader):
    """JSON as its text: Python's own objects would lose key order, ``1.10`` and doubled keys. An interval as its text:
    there a month would be 30 days, and one without an end would last no time at all."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


_TIMES: Final = ("date", "time", "timetz", "timestamp", "timestamptz")


def _take_all(cursor: psycopg.Cursor[Any], type_name: str) -> None:
    """Have a type of times read as before, and what psycopg can't read, with which it ends the query, as its text."""
    found = cursor.adapters.get_loader(cursor.adapters.types[type_name].oid, psycopg.pq.Format.TEXT)
    assert found is not None
    usual = found

    class Lenient(Loader):
        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._load = usual(oid, context).load

        def load(self, data: Buffer) -> object:
            try:
                return self._load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    cursor.adapters.register_loader(type_name, Lenient)


def described(connection: psycopg.Connection[Any], statement: str) -> tuple[list[str], list[int]]:
    """Have the server check a statement without running it; return the names and types of its columns."""
    encoding = connection.info.encoding
    pg = connection.pgconn
    for result in (pg.prepare(b"", statement.encode(encoding)), pg.describe_prepared(b"")):
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result, encoding)
    if not result.nfields:
        raise QueryRefused("The statement returns no rows. Only statements that read can be run here.")
    names = [(result.fname(at) or b"").decode(encoding) for at in range(result.nfields)]
    return names, [result.ftype(at) for at in range(result.nfields)]


def _generator(rows: Iterator[tuple[Any, ...]]) -> Generator[tuple[Any, ...], None, None]:
    yield from rows
