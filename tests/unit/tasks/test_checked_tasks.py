"""A task refuses in the caller what no worker could do anything with. Nothing is sent: there is no broker here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tailrace.errors import BadArgument, BadSettings
from tailrace.tasks import backfill, cancel_run, ingest_run, ingest_stream

CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: ingest_run.delay("run_1", batch_max_bytes="abc"), "batch_max_bytes"),
    (lambda: ingest_run.apply_async(("run_1",), {"streams": "ai"}), "streams"),
    (lambda: ingest_run.s("run_1", then=5).delay(), "then"),
    (lambda: ingest_run.si("a\0b").apply_async(), "run_id"),
    (lambda: cancel_run.delay("run_1", environment=7), "environment"),
    (lambda: ingest_stream.delay(2**63), "stream_id"),
    (lambda: backfill.delay("yesterday"), "since"),
    (lambda: backfill.delay("7d", "1" * 500 + "d"), "until"),
    (lambda: backfill.delay("7d", statuses="COMPLETED"), "statuses"),
    (lambda: backfill.delay("7d", tags=[""]), "each of tags"),
]


@pytest.mark.parametrize(("call", "named"), CALLS)
def test_the_caller_learns_what_is_wrong(call: Callable[[], Any], named: str) -> None:
    with pytest.raises(BadArgument, match=rf"^{named} "):
        call()


@pytest.mark.parametrize("call", [lambda: ingest_run.delay(), lambda: ingest_run.delay("run_1", batch_max_chunk=5)])
def test_arguments_that_do_not_fit_are_a_type_error(call: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="ingest_run"):
        call()


def test_what_can_be_meant_is_sent() -> None:
    for call in (
        lambda: ingest_run.delay("run_1", ["ai"], batch_max_chunks=5),
        lambda: backfill.delay("7d", "2026-11-01", tags=[], statuses=["FAILED"]),
    ):
        with pytest.raises(BadSettings, match="No broker"):  # it got that far
            call()


@pytest.mark.parametrize("task", [ingest_run, cancel_run, ingest_stream, backfill])
def test_a_rule_has_the_parameters_of_its_task(task: Any) -> None:
    shapes = [
        [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]
        for function in (task.run, task.rule)
    ]
    assert shapes[0] == shapes[1]
