"""Every test here that archives something leaves accounts that balance; most commands are forked, not started."""

from collections.abc import Iterator

import pytest

from tests.acceptance import cli_runner
from tests.acceptance.prepared import prepared
from tests.accounts import _accounts_balance

__all__ = ["_accounts_balance"]


@pytest.fixture(scope="session", autouse=True)
def _prepared_commands() -> Iterator[None]:
    with prepared(cli_runner.kept()) as cli_runner.commands:
        yield
    cli_runner.commands = None
