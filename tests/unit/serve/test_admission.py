"""What a scope covers is what upstream's grammar says, and where this is stricter."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tailrace.model import Wire
from tailrace.serve.admission import (
    LONGEST_CREDENTIAL,
    Admitted,
    NotAdmitted,
    Resource,
    bearer,
    may_list,
    may_read,
    of_feed,
    of_run,
    same,
)
from tailrace.serve.runs import Run

NOW = datetime(2026, 11, 28, tzinfo=UTC)
RUN = Run("run_1", Wire.V2, "EXECUTING", "summarize", NOW, NOW, tags=("user:7", "eval"))


@pytest.mark.parametrize(
    "scope",
    [
        "read:runs",
        "read:runs:",
        "read:runs:run_1",
        "read:tasks",
        "read:tasks:summarize",
        "read:tags",
        "read:tags:user:7",
        "read:tags:eval",
        "read:all",
        "read:all:whatever",
        "*:runs",
        "*:all",
        "admin",
    ],
)
def test_a_run_may_be_read_by_any_of_what_it_is(scope: str) -> None:
    assert may_read([scope], of_run(RUN))
    assert may_read(["write:runs", scope], of_run(RUN))


@pytest.mark.parametrize(
    "scope",
    [
        "",
        ":",
        "read",
        "read:",
        "read:runs:run_2",
        "read:runs:run_1:more",
        "read:tasks:other",
        "read:tags:user",
        "read:tags:user:7:more",
        "read:batch:batch_1",
        "read:batch",
        "read:Runs",
        "Read:runs",
        "write:runs:run_1",
        "write:all",
        "trigger:tasks:summarize",
        "admin:runs",
        "admins",
        "readall",
        " read:runs",
    ],
)
def test_other_scopes_do_not_let_it_be_read(scope: str) -> None:
    assert not may_read([scope], of_run(RUN))


def test_no_scopes_let_nothing_be_read_and_no_limits_everything() -> None:
    assert not may_read([], of_run(RUN))
    assert not may_read(["read:all"], [])
    assert not Admitted("e", ()).may_read(of_run(RUN))
    assert Admitted("e").may_read(of_run(RUN))


@pytest.mark.parametrize(
    ("scope", "tags", "may"),
    [
        ("read:runs", "", True),
        ("read:tags", "", True),
        ("read:all", "", True),
        ("read:runs:run_1", "", False),
        ("read:tags:a", "", False),
        ("read:tags:a", "a", True),
        ("read:tags:a", "b,a", True),  # what is shown has both
        ("read:tags:a", "b", False),
        ("read:tags:a", "ab", False),
        ("read:tasks:a", "a", False),
    ],
)
def test_a_feed_needs_a_scope_for_all_runs_or_for_a_tag_that_it_asks_for(scope: str, tags: str, may: bool) -> None:
    assert Admitted("e", (scope,)).may_read(of_feed(tags)) is may


@pytest.mark.parametrize(
    ("scopes", "tasks", "may"),
    [
        (("read:runs",), "", True),
        (("read:tasks",), "", True),
        (("read:tasks:a",), "", False),
        (("read:tasks:a",), ",", False),
        (("read:tasks:a",), "a", True),
        (("read:tasks:a",), "a,b", False),  # what is shown is of either
        (("read:tasks:a", "read:tasks:b"), "a,b", True),
        (("read:runs:run_1",), "a", False),
        (("read:tags:a",), "a", False),
        (None, "", True),
    ],
)
def test_a_list_needs_a_scope_for_each_task_that_it_asks_for(
    scopes: tuple[str, ...] | None, tasks: str, may: bool
) -> None:
    assert may_list(Admitted("e", scopes), tasks) is may


def test_a_whole_type_is_not_one_of_it() -> None:
    assert not may_read(["read:runs:run_1"], [Resource("runs")])


@pytest.mark.parametrize("value", ["Bearer k", "bearer k", "BEARER  k ", "Bearer k\t"])
def test_the_credential_stands_after_bearer(value: str) -> None:
    assert bearer({"authorization": value}) == "k"


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "k"}, {"authorization": "Bearer "}])
def test_none_is_no_guess(headers: dict[str, str]) -> None:
    with pytest.raises(NotAdmitted, match="Missing") as caught:
        bearer(headers)
    assert not caught.value.guessed


def test_one_that_is_too_long_is_not_read() -> None:
    assert len(bearer({"authorization": "Bearer " + "k" * LONGEST_CREDENTIAL})) == LONGEST_CREDENTIAL
    with pytest.raises(NotAdmitted, match="Invalid API key") as caught:
        bearer({"authorization": "Bearer " + "k" * (LONGEST_CREDENTIAL + 1)})
    assert "kk" not in repr(vars(caught.value))


def test_texts_are_the_same_or_not() -> None:
    assert same("a", "a")
    assert not same("a", "b")
    assert not same("a", "aa")
    assert not same("é", "e")
