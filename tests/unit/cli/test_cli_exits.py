"""Which exit code an error ends with."""

import pytest

from tailrace.cli.exits import MEANINGS, BrokerUnavailable, Exit, advice_for, exit_for
from tailrace.errors import (
    BadSettings,
    LeaseLost,
    MalformedRecord,
    NotFound,
    RequestRefused,
    SourceUnavailable,
    StoreUnavailable,
    StreamStalled,
    TerminalError,
    Unauthorized,
    WorkerError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadSettings("x"), Exit.USAGE),
        (NotFound("x"), Exit.INGEST_FAILED),
        (RequestRefused("x"), Exit.INGEST_FAILED),
        (MalformedRecord("x"), Exit.INGEST_FAILED),
        (Unauthorized("x"), Exit.KEY_REFUSED),
        (SourceUnavailable("x"), Exit.UNREACHABLE),
        (StreamStalled("x"), Exit.UNREACHABLE),
        (StoreUnavailable("x"), Exit.UNREACHABLE),
        (BrokerUnavailable("x"), Exit.UNREACHABLE),
        (TerminalError("x"), Exit.FAILED),
        (LeaseLost("x"), Exit.FAILED),
    ],
)
def test_each_error_has_its_exit_code(error: WorkerError, code: Exit) -> None:
    assert exit_for(error) is code


@pytest.mark.parametrize(
    ("error", "variable"),
    [
        (SourceUnavailable("x"), "TRIGGER_API_URL"),
        (StoreUnavailable("x"), "DATABASE_URL"),
        (BrokerUnavailable("x"), "REDIS_URL"),
    ],
)
def test_what_cannot_be_reached_comes_with_its_variable(error: WorkerError, variable: str) -> None:
    assert variable in (advice_for(error) or "")


def test_every_exit_code_is_explained() -> None:
    assert set(MEANINGS) == set(Exit)
