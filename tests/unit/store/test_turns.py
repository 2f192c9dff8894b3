"""Everybody's turn comes, in the order of asking; what is not taken up is not lost."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.store.engine import FairPool, one_at_a_time, turn_of
from tailrace.store.turns import Turns


def waiting(turns: Turns, count: int) -> None:
    while len(turns._waiting) < count:
        pass


def test_whoever_waits_longest_is_next_and_who_has_just_been_comes_last() -> None:
    turns, order = Turns(1), list[int]()

    def ask(number: int) -> None:
        assert turns.take(10)
        order.append(number)
        turns.give_back()

    assert turns.take(0)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        waiting(turns, number + 1)
    turns.give_back()
    assert turns.take(10)  # it is given from one to the next, so whoever comes now comes after all of them
    assert order == [0, 1, 2, 3, 4]
    turns.give_back()
    for thread in threads:
        thread.join(10)


def test_who_waits_in_vain_takes_nobodys_place() -> None:
    turns = Turns(1)
    assert turns.take(0)
    assert not turns.take(0.001)
    turns.give_back()
    assert turns.take(0)
    assert not turns.take(0)


def test_a_place_that_comes_while_somebody_is_stopped_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(1)
    assert turns.take(0)

    def stopped(_event: threading.Event, _timeout_s: float) -> bool:
        turns.give_back()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Event, "wait", stopped)
        with pytest.raises(KeyboardInterrupt):
            turns.take(10)
    assert turns.take(0)


def pool_of(creator: object, size: int, timeout_s: float) -> FairPool:
    return FairPool(creator, pool_size=size, timeout=timeout_s)


def test_a_pool_has_so_many_connections_and_no_more() -> None:
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        made.append(sqlite3.connect(":memory:", check_same_thread=False))
        return made[-1]

    pool = pool_of(connect, 2, 0.001)
    first, second = pool.connect(), pool.connect()
    with pytest.raises(exc.TimeoutError, match="none of 2 connections"):
        pool.connect()
    first.invalidate()  # it broke, and its place stays
    first.close()
    again = pool.connect()
    again.close()
    second.close()
    assert len(made) == 3
    pool.dispose()


def test_nobody_waits_for_a_connection_that_could_not_be_made() -> None:
    """With SQLAlchemy's own, the second waits until its time is over."""
    begun, may_fail, calls = threading.Event(), threading.Event(), list[int]()

    def connect() -> sqlite3.Connection:
        calls.append(1)
        if len(calls) == 1:
            begun.set()
            assert may_fail.wait(10)
            raise sqlite3.OperationalError("the server is away")
        return sqlite3.connect(":memory:", check_same_thread=False)

    pool = pool_of(connect, 1, 60.0)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.connect)
        assert begun.wait(10)
        second = threads.submit(pool.connect)
        waiting(pool._turns, 1)
        may_fail.set()
        with pytest.raises(sqlite3.OperationalError):
            first.result(10)
        second.result(10).close()
    pool.dispose()


def test_what_asks_through_one_at_a_time_leaves_the_other_connections_to_others() -> None:
    engine = sa.create_engine("sqlite://")
    gate = one_at_a_time(engine, timeout_s=0.001)
    with turn_of(gate):
        with pytest.raises(exc.TimeoutError), turn_of(gate.execution_options(isolation_level="AUTOCOMMIT")):
            raise AssertionError("it is not this one's turn")
        with turn_of(engine), turn_of(one_at_a_time(engine)):
            pass
    with turn_of(gate):
        pass
    engine.dispose()
