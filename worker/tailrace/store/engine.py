"""SQLAlchemy engines for Postgres, and Postgres' connection failures in our own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event, exc, pool
from sqlalchemy.engine import URL, Engine, make_url

from tailrace.config.urls import check_postgres
from tailrace.errors import BadSettings, StoreUnavailable
from tailrace.redaction import remember
from tailrace.store import arrays
from tailrace.store.turns import Turns

__all__ = [
    "FairPool",
    "autocommit",
    "connections_in_use",
    "create_engine",
    "end",
    "is_unavailable",
    "normal_url",
    "one_at_a_time",
    "translated",
    "turn_of",
]

DRIVER = "postgresql+psycopg"

# Postgres is there, but can't serve: 08 connection exception, 53 insufficient resources (too many connections, disk
# full), 57P01-57P05 shut down, crashed, starting up, database dropped, idle session ended, 25006 read-only (the old
# primary after a failover).
_UNAVAILABLE_CLASSES = ("08", "53", "57P")
_UNAVAILABLE_STATES = frozenset({"25006"})


def normal_url(url: str) -> URL:
    """A Postgres URL as SQLAlchemy wants it: ``postgres://`` and ``postgresql://`` get the psycopg driver.

    Raises:
        BadSettings: not a Postgres URL. The message does not repeat it, since it can hold a password.
    """
    check_postgres("The database URL", url.partition("://")[2])
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise BadSettings("The database URL can't be read; it should look like postgresql://user@host/name.") from None
    if parsed.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise BadSettings(f"The database must be PostgreSQL (postgresql://...), not {parsed.drivername}://.")
    for secret in (parsed.password, *(value for name, value in parsed.query.items() if "password" in name)):
        if isinstance(secret, str):
            remember(secret)
    return parsed.set(drivername=DRIVER)


def create_engine(
    url: str,
    *,
    pool_size: int = 5,
    max_overflow: int = 10,
    pool_timeout_s: float = 30.0,
    connect_timeout_s: int = 5,
    dead_after_s: float = 10.0,
    application_name: str = "tailrace",
    poolclass: type[pool.Pool] | None = None,
) -> Engine:
    """An engine that works through PgBouncer in transaction mode and notices a dead server.

    Args:
        url: ``postgres://`` or ``postgresql://``. What its query says (``sslmode``, ...) wins over
            the arguments here.
        connect_timeout_s: for one address; libpq tries each address of a name in turn.
        dead_after_s: sent data that is not acknowledged for this long, or as long a silence that keepalives do not end,
            breaks the connection.
        poolclass: ``NullPool`` for a connection that is used once; then the pool's sizes do not apply. `FairPool` where
            many wait for few; it has ``pool_size`` connections, and no overflow.

    Opens nothing. Raises `BadSettings` for a URL that is not Postgres'. So does who connects, to one that is too old.
    """
    # Chunks are sent as bytes. Told otherwise (PGCLIENTENCODING, the URL, the role's settings), the server would turn
    # them from that encoding into its own, and store something else than upstream sent.
    parsed = normal_url(url).difference_update_query(["client_encoding"])
    seconds = max(1, round(dead_after_s))
    arguments: dict[str, Any] = {
        "client_encoding": "utf8",
        # PgBouncer hands each transaction to another server connection, which does not know our prepared statements.
        "prepare_threshold": None,
        "connect_timeout": connect_timeout_s,
        "application_name": application_name,
        "keepalives": 1,
        "keepalives_idle": max(1, seconds // 2),
        "keepalives_interval": max(1, seconds // 4),
        "keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }
    sizes: dict[str, Any] = {"pool_size": pool_size, "max_overflow": max_overflow, "pool_timeout": pool_timeout_s}
    if poolclass is FairPool:
        sizes = {"poolclass": FairPool, "pool_size": pool_size, "pool_timeout": pool_timeout_s}
    elif poolclass is not None:
        sizes = {"poolclass": poolclass}
    engine = sa.create_engine(
        parsed,
        connect_args={name: value for name, value in arguments.items() if name not in parsed.query},
        # A parameter can be a chunk: it must not reach a log through an exception's text.
        hide_parameters=True,
        # Saves a query on every new connection.
        use_native_hstore=False,
        **sizes,
    )
    event.listen(engine, "connect", _on_connect)
    return engine


RELIED_ON = {"DateStyle": "ISO", "standard_conforming_strings": "on"}
"""What our statements, and psycopg's reading of times, take for granted. A server, database or role may have others.
PgBouncer knows both of each client, so they hold in transaction mode too."""


OLDEST = 15
"""The oldest PostgreSQL that our statements are for, and that is tested."""


def _on_connect(connection: psycopg.Connection[Any], _record: object) -> None:
    version = connection.info.server_version  # 150018: 15.18
    if version < OLDEST * 10_000:
        connection.close()
        raise BadSettings(f"The database is PostgreSQL {version // 10_000}, and Tailrace needs {OLDEST} or newer.")
    arrays.register(connection)
    for name, value in RELIED_ON.items():
        # The server says them at every connect: nothing is sent where they are as usual.
        if not (connection.info.parameter_status(name) or value).startswith(value):
            connection.execute(f"SET {name} = {value}")
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        connection.commit()


class FairPool(pool.QueuePool):
    """So many connections and no more; who waits for one gets it in the order of asking.

    One of SQLAlchemy's can pass somebody over again and again. And where the first connection could not be made, those
    who wait for it go on waiting until their time is over, though nobody has it.
    """

    def __init__(self, creator: Any, pool_size: int = 1, timeout: float = 30.0, **rest: Any) -> None:
        super().__init__(creator, **rest | {"pool_size": pool_size, "max_overflow": 0, "timeout": timeout})
        self._turns = Turns(pool_size)

    def _do_get(self) -> pool.ConnectionPoolEntry:
        if not self._turns.take(self._timeout):
            raise exc.TimeoutError(f"none of {self.size()} connections came free within {self._timeout:g} s")
        try:
            return super()._do_get()  # does not wait: there is one, or room for one
        except BaseException:
            self._turns.give_back()
            raise

    def _do_return_conn(self, record: pool.ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self._turns.give_back()


def one_at_a_time(engine: Engine, timeout_s: float = 30.0) -> Engine:
    """The same engine, on the same pool, of which all who ask through this one use one connection at a time."""
    return engine.execution_options(**{_TURNS: (Turns(1), timeout_s)})


def turn_of(engine: Engine) -> AbstractContextManager[None]:
    """Wait for what `one_at_a_time` demands, if it does; to be held as long as a connection is.

    Raises:
        sqlalchemy.exc.TimeoutError: it took too long.
    """
    bound = engine.get_execution_options().get(_TURNS)
    return nullcontext() if bound is None else _turn(*bound)


_TURNS = "tailrace_turns"


@contextmanager
def _turn(turns: Turns, timeout_s: float) -> Iterator[None]:
    if not turns.take(timeout_s):
        raise exc.TimeoutError(f"others were asking for more than {timeout_s:g} s")
    try:
        yield
    finally:
        turns.give_back()


def end(engine: Engine) -> None:
    """Close the connections of an engine: those that are in use as soon as they are given back, and so any later one.

    `Engine.dispose` alone would leave them to the garbage collector: a thread that is at work while its process ends
    gives its connection back to a pool that nobody has any more.
    """
    event.listen(engine, "checkin", _close)
    engine.dispose()


def _close(connection: psycopg.Connection[Any] | None, _record: object) -> None:
    if connection is not None:
        connection.close()


def connections_in_use(engine: Engine) -> int:
    """Return how many connections of an engine with a pool somebody has at this moment."""
    assert isinstance(engine.pool, pool.QueuePool)
    return engine.pool.checkedout()


def autocommit(engine: Engine) -> Engine:
    """The same engine, on the same pool, with each statement a transaction of its own; as it is when it is one."""
    if engine.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def is_unavailable(error: BaseException) -> bool:
    """Whether this error says that Postgres did not answer, rather than that it answered no."""
    if isinstance(error, exc.DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig or error
    if isinstance(error, exc.TimeoutError):  # no connection of the pool came free
        return True
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        state = error.sqlstate
        return state is None or state.startswith(_UNAVAILABLE_CLASSES) or state in _UNAVAILABLE_STATES
    return isinstance(error, psycopg.errors.ReadOnlySqlTransaction)


@contextmanager
def translated() -> Iterator[None]:
    """Turn SQLAlchemy's and psycopg's connection failures into `StoreUnavailable`; let every other error pass.

    The message is the server's or libpq's first line: it names host, database and user, never the password, the
    statement or its parameters.
    """
    try:
        yield
    except (exc.SQLAlchemyError, psycopg.Error) as error:
        if not is_unavailable(error):
            raise
        cause = getattr(error, "orig", None) or error
        line = str(cause).strip().partition("\n")[0]
        raise StoreUnavailable(f"Postgres did not answer: {line or type(cause).__name__}") from error
