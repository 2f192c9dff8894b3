"""The check that the archive's accounts balance: every index up to the checkpoint is a chunk or in a hole, exactly once.

`assert_balanced` asks the archive's own function. The fixture below is imported by the conftest.py of each folder whose
tests archive something: it asks after every test that had a ``database_url``. A test that writes rows by hand is marked
``unbalanced``, or its whole module is named here.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

BY_HAND = "schema_rows"
"""Modules that import this write rows by hand, wrong ones too."""


def assert_balanced(archive: str | sa.Engine) -> None:
    """Fail with every violation of the accounts; ``archive`` is a URL or an engine."""
    url = archive if isinstance(archive, str) else archive.url.render_as_string(hide_password=False)
    with psycopg.connect(url.replace("postgresql+psycopg:", "postgresql:"), autocommit=True) as connection:
        has_archive = connection.execute("SELECT to_regproc('tailrace.verify_accounts') IS NOT NULL").fetchone()
        if has_archive == (True,):
            assert connection.execute("SELECT * FROM tailrace.verify_accounts()").fetchall() == []


@pytest.fixture(autouse=True)
def _accounts_balance(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test, and before its database goes."""
    if "database_url" not in request.fixturenames or _writes_by_hand(request):
        yield
        return
    url: str = request.getfixturevalue("database_url")
    yield
    assert_balanced(url)


def _writes_by_hand(request: pytest.FixtureRequest) -> bool:
    if request.node.get_closest_marker("unbalanced") is not None:
        return True
    names = vars(request.module).values()
    return any(getattr(each, "__module__", "").endswith(BY_HAND) for each in names)
