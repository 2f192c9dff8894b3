"""What may be asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.arguments import BATCH_LIMITS, RunRequest, checked_id, checked_options, run_request
from tailrace.config.settings import Settings, variables
from tailrace.errors import BadArgument
from tests.optioncases import OPTIONS

SECRET = "tr_dev_canarycanary"


@pytest.mark.parametrize(("options", "problem"), OPTIONS)
def test_options_are_refused_by_name_type_and_range(options: str, problem: str | None) -> None:
    given = json.loads(options)
    if problem is None:
        assert checked_options(given) == given
        return
    with pytest.raises(BadArgument) as refusal:
        checked_options(given)
    assert str(refusal.value) == problem


def test_a_setting_has_the_range_of_the_option_of_its_name() -> None:
    allowed = {variable.field: (variable.allowed, variable.unit) for variable in variables()}
    for name, (low, high, unit) in BATCH_LIMITS.items():
        assert allowed[name] == (f"{low:,} to {high:,}", unit)
        for value in (low, high):
            assert getattr(Settings(**{name: value}), name) == value
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=name):
                Settings(**{name: value})


def test_a_request_is_what_was_given() -> None:
    asked = run_request("../a b", ("k", "ü"), batch_max_chunks=7, then=" app.done@mine ", environment="staging")
    assert asked == RunRequest("../a b", ["k", "ü"], {"batch_max_chunks": 7}, "app.done@mine", "staging")
    assert run_request("run_1") == RunRequest("run_1", None, {}, None, None)
    assert run_request("x" * 1_000).run_id == "x" * 1_000


@pytest.mark.parametrize(
    ("given", "named"),
    [
        *(({"run_id": value}, "run_id") for value in (None, 5, "", ["a"], {"a": 1}, "a\0b", "\ud800", "ü" * 501)),
        *(({"streams": value}, "streams") for value in ("abc", [], {}, 5, ["k"] * 10_001)),
        *(({"streams": ["k", value]}, "each of streams") for value in (None, 1, "", "\0", "\ud800", "x" * 1_001, [[]])),
        *(({"then": value}, "then") for value in (5, "", " ", "a b", "a@", "@q", "a\nb", "x" * 501, [])),
        *(({"environment": value}, "environment") for value in (7, "", " ", "a\0b", "x" * 101, "\ud800", {})),
        ({"batch_max_bytes": "abc"}, "batch_max_bytes"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(BadArgument, match=f"^{named} "):
        run_request(**({"run_id": "run_1"} | given))


@pytest.mark.parametrize("given", [None, True, "5", 1.0, 0, -1, 2**63, [1]])
def test_an_id_is_one_that_a_row_can_have(given: object) -> None:
    with pytest.raises(BadArgument, match=r"^id must be"):
        checked_id("id", given)
    assert checked_id("id", 2**63 - 1) == 2**63 - 1


def test_no_error_repeats_what_was_given() -> None:
    wrong = (
        {"streams": SECRET},
        {"then": f"{SECRET} {SECRET}"},
        {"environment": f"{SECRET}\0"},
        {"batch_max_bytes": SECRET},
    )
    for given in wrong:
        with pytest.raises(BadArgument) as refusal:
            run_request("run_1", **given)
        assert "canary" not in str(refusal.value)
