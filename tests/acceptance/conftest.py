"""Every test here that archives something leaves accounts that balance; most commands are forked, not started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.serve.timing import Timing
from tests.acceptance import cli_runner
from tests.acceptance.prepared import prepared
from tests.accounts import _accounts_balance
from tests.upstream import LiveStore, RunningServer, create_app, running

__all__ = ["_accounts_balance"]


@pytest.fixture(scope="session", autouse=True)
def _prepared_commands() -> Iterator[None]:
    with prepared(cli_runner.kept()) as cli_runner.commands:
        yield
    cli_runner.commands = None


@pytest.fixture
def store() -> LiveStore:
    """What upstream has."""
    return LiveStore()


@pytest.fixture
def upstream(store: LiveStore) -> Iterator[RunningServer]:
    """Upstream, where a wait of one second is a tenth of one."""
    with running(create_app(store, timing=Timing().scaled(0.1))) as server:
        yield server


@pytest.fixture
def cli(tmp_path: Path, database_url: str, redis_url: str, upstream: RunningServer) -> cli_runner.Cli:
    """The command, as an operator has it who has set what must be set."""
    return cli_runner.cli_for(tmp_path, database_url=database_url, redis_url=redis_url, api_url=upstream.url)
