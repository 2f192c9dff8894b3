"""A database with an engine and an archive on it, for tests that ask for them; every archive's accounts balance; most
workers are forked, not started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tailrace.store.engine import create_engine
from tests.accounts import _accounts_balance
from tests.chaos import fleet
from tests.chaos.prepared_workers import prepared_workers
from tests.integration.schema_rows import Archive
from tests.leaks import lasting

__all__ = ["_accounts_balance"]


@pytest.fixture(scope="session", autouse=True)
def _prepared_workers() -> Iterator[None]:
    with prepared_workers() as workers, lasting("prepared_workers.py"):
        fleet.launch = workers.start
        yield
    fleet.launch = fleet.in_a_new_interpreter


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    with archive.connection:
        yield archive
