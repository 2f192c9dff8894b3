"""A database with an engine and an archive on it, for tests that ask for them; and every archive's accounts balance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tailrace.store.engine import create_engine
from tests.accounts import _accounts_balance
from tests.integration.schema_rows import Archive

__all__ = ["_accounts_balance"]


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
