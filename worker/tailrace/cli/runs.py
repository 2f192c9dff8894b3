"""The runs of one environment, for commands that change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tailrace.cli import servers

if TYPE_CHECKING:
    from tailrace.store.runs import Runs

DEFAULT_ENVIRONMENT = "default"


def runs_of(environment: str | None) -> tuple[Runs, str]:
    """Return the statements about runs of an environment, and its name.

    Raises:
        BadSettings: there is no database.
    """
    from tailrace.store.engine import create_engine
    from tailrace.store.runs import Runs

    name = environment or DEFAULT_ENVIRONMENT
    engine = create_engine(servers.database(), pool_size=1, max_overflow=0, application_name="tailrace command")
    return Runs(engine, name), name


@contextmanager
def changing() -> Iterator[None]:
    """Turn what Postgres says to a command into our errors."""
    from sqlalchemy.exc import DBAPIError

    from tailrace.store.statements import refusal

    try:
        yield
    except DBAPIError as error:
        raise refusal(error.orig or error) from error
