"""What the calls of `tailrace.frames` return, and where it is read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
from sqlalchemy import pool

from tailrace.errors import TerminalError, TransientError
from tailrace.frames import answers, chunks
from tailrace.store.engine import create_engine
from tailrace.store.statements import driver_of, refusal, refusing
from tailrace.streams.client import Client, default_client
from tailrace.streams.errors import StreamError

if TYPE_CHECKING:
    import pandas
    import polars

Batches = Callable[[psycopg.Connection[Any], str | None], Iterator[pa.RecordBatch]]
Parameters = Sequence[Any] | Mapping[str, Any] | None


class Frame:
    """Something of the archive, to be read as columns. Each method reads it anew, in one read-only transaction.

    Every method raises:
        NotConfigured: no database is set; a run that is in several environments.
        NotArchived: the archive does not know the run.
        StreamError: Postgres did not answer, or refused; a value has no place in the column of its type.
    """

    def __init__(self, batches: Batches, client: Client | None) -> None:
        self._batches = batches
        self._client = client

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read part by part; at least one, which may be empty. A part is a few MB, or one larger chunk."""
        url, environment = (self._client or default_client()).servers().database()
        with _connected(url) as connection:
            yield from self._batches(connection, environment)

    def to_arrow(self) -> pa.Table:
        """Read all of it into an Arrow table."""
        return pa.Table.from_batches(list(self.batches()))

    def to_pandas(self) -> pandas.DataFrame:
        """Read all of it into a pandas frame. Needs pandas."""
        table = self.to_arrow()
        # The columns of the table are let go of one by one: else all would be there twice.
        found: pandas.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
        return found

    def to_polars(self) -> polars.DataFrame:
        """Read all of it into a polars frame. Needs polars."""
        import polars

        found = polars.from_arrow(self.to_arrow())
        assert isinstance(found, polars.DataFrame)
        return found


def stream(run_id: str, key: str, *, client: Client | None = None) -> Frame:
    """Return the chunks of one stream of a run, in order; of a stream that is not archived, none.

    Columns: ``run_id``, ``stream_key``, ``generation``, ``chunk_index``, ``data`` (the JSON text, as it was sent),
    ``emitted_at``, ``committed_at``; what they mean is said of view ``tailrace.chunks`` in docs/sql.md.
    """
    return Frame(lambda connection, environment: chunks.of_run(connection, environment, run_id, key), client)


def run(run_id: str, *, client: Client | None = None) -> Frame:
    """Return the chunks of all streams of a run, ordered by stream; see `stream` for the columns."""
    return Frame(lambda connection, environment: chunks.of_run(connection, environment, run_id, None), client)


def query(statement: str, parameters: Parameters = None, *, client: Client | None = None) -> Frame:
    """Return what one query of yours answers. Columns are those of the query; a second ``count`` is ``count_2``.

    Args:
        statement: one that reads. Without parameters, ``%`` in it means nothing.
        parameters: for ``%s``, or ``%(name)s``, as psycopg has them.

    Integers, floats, booleans, dates, times, bytes and arrays are what they are in Arrow; ``numeric`` becomes a float;
    JSON and whatever else there is becomes its text.
    """
    return Frame(lambda connection, _: answers.of_query(connection, statement, parameters), client)


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a connection of one's own, in a transaction that only reads and sees one moment."""
    engine = create_engine(url, poolclass=pool.NullPool, application_name="tailrace-frames")
    try:
        with refusing(), engine.connect() as held, driver_of(held).cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET LOCAL TIME ZONE 'UTC'")
            try:
                yield cursor.connection
            except psycopg.errors.ReadOnlySqlTransaction as error:  # elsewhere this says: ask the new primary
                raise refusal(error) from error
    except (TransientError, TerminalError, pa.ArrowException) as error:
        if isinstance(error, StreamError):
            raise
        raise StreamError(f"The archive can't be read: {error}") from error
