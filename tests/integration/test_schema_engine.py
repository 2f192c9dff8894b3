"""`tailrace.store.engine` against a real server: what it sets, and which failures it calls unavailable."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import pool
from sqlalchemy.engine import make_url

from tailrace.errors import BadSettings, StoreUnavailable
from tailrace.store.engine import autocommit, create_engine, end, normal_url, translated

SECRET = "hunter2"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_every_name_of_postgres_gets_our_driver(scheme: str) -> None:
    url = normal_url(f"{scheme}://u:{SECRET}@h:5433/d?sslmode=require")
    assert url.render_as_string(hide_password=False) == f"postgresql+psycopg://u:{SECRET}@h:5433/d?sslmode=require"


@pytest.mark.parametrize(
    "url",
    [
        *(f"mysql://u:{SECRET}@h/d", f"u:{SECRET}@h/d", "", f"postgres://u:{SECRET}@h:port/d"),
        *(f"postgres://u:p@{SECRET}@h/d", f"postgres://u:p@{SECRET}/p@h/d", f"postgres://u:p@{SECRET}?p@h/d"),
    ],
)
def test_what_is_no_postgres_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadSettings) as refused:
        create_engine(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_connection_says_who_it_is_and_prepares_nothing(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_setting('application_name')")) == "tailrace"
        for _ in range(10):
            connection.execute(sa.text("SELECT :n"), {"n": 1})
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_prepared_statements")) == 0
    engine.dispose()


def test_what_the_url_says_wins(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"application_name": "mine", "connect_timeout": "3"})
    engine = create_engine(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT current_setting('application_name')")) == "mine"
    engine.dispose()


def test_the_autocommit_engine_shares_the_pool_and_begins_no_transaction(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_overflow=0)
    with autocommit(engine).connect() as connection:
        connection.execute(sa.text("SELECT tailrace.request_ingest('run_1')"))
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        assert raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with engine.connect() as connection:
        assert connection.connection.driver_connection is raw
        assert connection.scalar(sa.text("SELECT count(*) FROM tailrace.runs")) == 1
        assert raw.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    engine.dispose()


def test_nobody_listening_is_unavailable(database_url: str) -> None:
    url = make_url(database_url).set(host="127.0.0.1", port=1, password=SECRET)
    engine = create_engine(url.render_as_string(hide_password=False))
    with pytest.raises(StoreUnavailable) as failed, translated():
        engine.connect()
    assert SECRET not in str(failed.value)


def test_a_wrong_password_is_unavailable_and_not_repeated(database_url: str) -> None:
    url = make_url(database_url).set(password=SECRET)
    engine = create_engine(url.render_as_string(hide_password=False))
    with pytest.raises(StoreUnavailable, match="password") as failed, translated():
        engine.connect()
    assert SECRET not in str(failed.value)


def test_a_connection_that_is_cut_is_unavailable_and_the_next_one_works(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_overflow=0)
    with engine.connect() as connection:
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(StoreUnavailable), translated(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    with translated(), engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    engine.dispose()


def test_a_pool_without_a_free_connection_is_unavailable(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_overflow=0, pool_timeout_s=0.05)
    with engine.connect(), pytest.raises(StoreUnavailable), translated():
        engine.connect()
    engine.dispose()


def test_a_read_only_server_is_unavailable(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=pool.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        with pytest.raises(StoreUnavailable), translated():
            connection.execute(sa.text("DELETE FROM tailrace.runs"))


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELEC 1", sa.exc.ProgrammingError),
        ("SELECT 1/0", sa.exc.DataError),
        ("INSERT INTO tailrace.environments (name, api_url) VALUES ('default', '')", sa.exc.IntegrityError),
        ("SELECT pg_sleep(5)", sa.exc.OperationalError),  # a statement timeout: it answered
    ],
)
def test_what_postgres_answered_passes_unchanged(
    database_url: str, statement: str, error: type[sa.exc.DBAPIError]
) -> None:
    engine = create_engine(database_url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("SET statement_timeout = '50ms'"))
        with pytest.raises(error), translated():
            connection.execute(sa.text(statement))


def test_parameters_stay_out_of_errors(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=pool.NullPool)
    with pytest.raises(sa.exc.DataError) as failed, engine.connect() as connection:
        connection.execute(sa.text("SELECT 1/0, :secret"), {"secret": SECRET})
    assert SECRET not in str(failed.value)


def test_a_connection_that_is_in_use_at_the_end_is_closed_when_it_is_given_back(database_url: str) -> None:
    """And so is one that a thread opens which has not noticed the end."""
    engine = create_engine(database_url)
    with autocommit(engine).connect() as early:
        in_use = early.connection.driver_connection
        end(engine)
    with autocommit(engine).connect() as late:
        opened_late = late.connection.driver_connection
    assert [each.closed for each in (in_use, opened_late)] == [True, True]  # type: ignore[union-attr]
