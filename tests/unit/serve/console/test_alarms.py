"""Alarms of the console are those of operate/prometheus/alerts.yml, with the same limits and pages."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from tailrace.serve.console.alarms import ALARMS, Known, alarms
from tailrace.store.figures import BackfillState, Chores, EnvironmentState, Fleet, Open
from tailrace.store.keeping.verification import Coverage

ROOT = Path(__file__).parents[4]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "operate/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
CHORES = Chores(0, None, 0, 30 * 86400.0, 10.0, 1_000, 5, 100)
CALM = Known(
    Fleet(2, 20, 1.0),
    3,
    [],
    0,
    [EnvironmentState("prod", None, 5.0)],
    {"prod": 1.0},
    [],
    CHORES,
    Coverage(1, 0, None, 1, 0, None),
)
OPEN = Open("prod", "active", 3, 10, 10, 3, 0, 0, 5, 60.0, None)
NEEDS = {
    "TailraceNoWorker": replace(CALM, fleet=Fleet(0, 0, 40.0), open=[OPEN]),
    "TailraceKeyRefused": replace(CALM, environments=[EnvironmentState("prod", 61.0, None)]),
    "TailraceForgetsSoon": replace(CALM, open=[replace(OPEN, forgotten_in_s=14_399.0)]),
    "TailraceSlotsFull": replace(CALM, fleet=Fleet(1, 20, 1.0), leased=19),
    "TailracePartitionsEnded": replace(CALM, chores=replace(CHORES, partitions_ahead_s=172_799.0)),
    "TailraceDiscoveryStopped": replace(CALM, environments=[EnvironmentState("prod", None, 21_601.0)]),
    "TailraceMismatch": replace(CALM, coverage=Coverage(1, 0, None, 1, 1, None)),
    "TailraceStreamStuck": replace(CALM, open=[replace(OPEN, stuck=1)]),
    "TailraceBehind": replace(CALM, lag_s={"prod": 901.0}),
    "TailraceBackfillFailing": replace(CALM, backfills=[BackfillState("prod", 1, 1, 1, 1)]),
    "TailraceMessagesUnsent": replace(CALM, chores=replace(CHORES, unsent_age_s=901.0)),
    "TailraceTalliesStale": replace(CALM, chores=replace(CHORES, tally_age_s=3_601.0)),
    "TailraceCompactionBehind": replace(CALM, chores=replace(CHORES, uncompacted=5_001)),
    "TailracePostgresSessions": replace(CALM, chores=replace(CHORES, sessions=86)),
}


def test_nothing_is_to_be_done_when_all_is_well() -> None:
    assert alarms(CALM) == []
    assert alarms(replace(CALM, fleet=Fleet(0, 0, None))) == []  # there is nothing to read


@pytest.mark.parametrize("name", [rule.name for rule in ALARMS])
def test_each_comes_beyond_its_limit_and_says_what_to_do(name: str) -> None:
    (found,) = alarms(NEEDS[name])
    assert found.name == name
    assert found.todo
    assert "{" not in found.said
    assert (ROOT / found.runbook).is_file()


@pytest.mark.parametrize("rule", ALARMS, ids=lambda rule: rule.name)
def test_it_is_an_alert_with_the_same_limit_urgency_and_page(rule: Any) -> None:
    alert = ALERTS[rule.name]
    assert alert["annotations"]["runbook"] == f"docs/runbooks/{rule.runbook}.md"
    assert (alert["labels"]["severity"] == "page") == rule.page
    limits = re.findall(r"(==|>=|<=|<|>) ([\d.]+(?: \* \d+)?)", alert["expr"])
    assert (rule.compare, rule.limit) in [(sign, prod(map(float, limit.split(" * ")))) for sign, limit in limits]


def test_what_pages_comes_first_and_each_environment_by_itself() -> None:
    known = replace(
        CALM,
        lag_s={"a": 1_000.0, "b": 2_000.0},
        environments=[EnvironmentState("b", 100.0, None)],
    )
    assert [(each.name, each.environment) for each in alarms(known)] == [
        ("TailraceKeyRefused", "b"),
        ("TailraceBehind", "a"),
        ("TailraceBehind", "b"),
    ]
