"""What `tailrace doctor` can tell without asking anybody; and that docs/doctor.md has every kind of finding."""

from __future__ import annotations

import importlib
import pkgutil
import resource
import string
from pathlib import Path

import pytest
from pydantic import SecretStr

from tailrace.cli import checks
from tailrace.cli.checks import configuration, upstream
from tailrace.cli.checks.finding import Finding, Kind, Severity, note, problem
from tailrace.cli.exits import Exit
from tailrace.config.keys import Access

KEY = "tr_prod_Zb1y4mDq8Kq2"
DOCUMENT = Path(__file__).parents[3] / "docs" / "doctor.md"


def codes(findings: object) -> list[str]:
    assert hasattr(findings, "__iter__")
    return [each.code for each in findings if isinstance(each, Finding) and each.severity is not Severity.OK]


# --- variables and settings


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("TAILRACE_BATCH_MAX_BYTE", "variable-mistyped", "Did you mean TAILRACE_BATCH_MAX_BYTES?"),
        ("TAILRACE_DATABSE_URL", "variable-mistyped", "Did you mean TAILRACE_DATABASE_URL?"),
        ("TAILRACE_PORT_5432_TCP", "variable-unknown", None),
    ],
)
def test_a_variable_that_is_no_setting(name: str, code: str, says: str | None) -> None:
    (finding,) = configuration.variables({name: KEY, "TAILRACE_SLOTS": "5"})
    assert (finding.code, finding.todo) == (code, says)
    assert name in finding.says
    assert KEY not in f"{finding}"


@pytest.mark.parametrize(
    ("environ", "code", "says"),
    [
        ({}, "settings-wrong", "No key: set TRIGGER_SECRET_KEY"),
        ({"TRIGGER_SECRET_KEY": f"{KEY} x"}, "settings-wrong", "TRIGGER_SECRET_KEY holds characters"),
        ({"TAILRACE_LEASE_SECONDS": "4"}, "settings-wrong", "TAILRACE_LEASE_RENEW_SECONDS (3) must be less than half"),
        ({"TAILRACE_RETRY_CAP_MS": "1"}, "settings-wrong", "TAILRACE_RETRY_BASE_MS (500) must not be more than"),
        ({"TAILRACE_BUFFER_MAX_BYTES": "1048576"}, "settings-wrong", "TAILRACE_STREAM_BUFFER_MAX_BYTES"),
        ({"TAILRACE_KEYS_FILE": "/no/such"}, "settings-wrong", "TAILRACE_KEYS_FILE: /no/such can't be read"),
        ({"TAILRACE_SLOTS": "many"}, "settings-wrong", "TAILRACE_SLOTS must be a whole number"),
        ({"TAILRACE_READ_TIMEOUT_SECONDS": "10"}, "read-timeout-short", "TAILRACE_READ_TIMEOUT_SECONDS is 10"),
        ({"TAILRACE_LATE_CHECK_SECONDS": "90000"}, "late-check-vain", "TAILRACE_LATE_CHECK_SECONDS is 90000"),
        (
            {"TAILRACE_RETENTION_DAYS": "1", "TAILRACE_LATE_CHECK_SECONDS": "172800"},
            "retention-before-late-check",
            "TAILRACE_RETENTION_DAYS is 1",
        ),
        ({"TAILRACE_SLOTS": "5"}, None, None),
    ],
)
def test_settings_that_are_wrong_or_contradict_each_other(
    environ: dict[str, str], code: str | None, says: str | None
) -> None:
    given = {"TRIGGER_SECRET_KEY": KEY, **environ} if environ else {}
    findings = [each for each in configuration.settings(given) if each.severity is not Severity.OK]
    assert KEY not in f"{findings}"
    if code is None:
        assert findings == []
    else:
        (last,) = [each for each in findings if each.code == code]
        assert says is not None
        assert last.says.startswith(says)


def test_a_file_with_keys_beside_a_key_and_an_environment_that_is_not_in_it(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(f'[eu]\nkey = "{KEY}"\n')
    file.chmod(0o644)
    given = {"TAILRACE_KEYS_FILE": str(file), "TRIGGER_ACCESS_TOKEN": KEY}
    findings = list(configuration.settings(given))
    assert codes(findings) == ["key-unused", "keys-file-readable"]
    assert "TRIGGER_ACCESS_TOKEN" in findings[1].says
    wrong = list(configuration.settings({**given, "TAILRACE_ENVIRONMENT": "us"}))
    assert codes(wrong) == ["settings-wrong"]
    assert "has no table for us, which TAILRACE_ENVIRONMENT names" in wrong[0].says
    assert KEY not in f"{findings}{wrong}"


@pytest.mark.parametrize(
    ("soft", "hard", "code"),
    [
        (1_024, 1_024, "open-files"),
        (999, 4_096, "open-files-soft"),
        (1_024, 4_096, None),  # an ordinary account: the worker raises it
        (4_096, 4_096, None),
    ],
)
def test_fewer_open_files_than_slots(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, code: str | None) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    assert codes(configuration.open_files(1_000)) == ([] if code is None else [code])


# --- the address of upstream


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://trigger.example.com", "upstream-plain"),
        ("http://8.8.8.8:3000", "upstream-plain"),
        ("http://10.0.0.7", "upstream-plain-near"),
        ("http://webapp:3000", "upstream-plain-near"),
        ("http://trigger.internal", "upstream-plain-near"),
        ("http://127.0.0.2:1", None),
        ("http://[::1]:1", None),
        ("http://localhost:3030", None),
        ("https://trigger.example.com", None),
    ],
)
def test_plain_http_to_a_host_that_is_not_this_one(url: str, code: str | None) -> None:
    assert codes(upstream.address(Access("default", url, SecretStr(KEY)), "")) == ([] if code is None else [code])


# --- findings


def test_a_finding_shows_no_secret_that_somebody_else_said() -> None:
    kind = problem("x", "x", "it said {said}", "", "Look at {said}.")
    finding = kind.found(said=f"Authorization: Bearer {KEY}")
    assert KEY not in f"{finding}"
    assert "***" in finding.says


def kinds() -> list[Kind]:
    """Every kind of finding, in the order in which they are declared."""
    modules = [
        importlib.import_module(f"tailrace.cli.checks.{each.name}") for each in pkgutil.iter_modules(checks.__path__)
    ]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Kind)]


def test_every_kind_has_a_code_of_its_own_and_says_what_to_do() -> None:
    found = {each.code: each for each in kinds()}
    assert len(found) == len(set(map(id, kinds())))
    for kind in found.values():
        assert kind.code == kind.code.lower().replace(" ", "-")
        assert not kind.says.endswith(".")
        if kind.severity is Severity.PROBLEM:
            assert kind.todo, kind.code
            assert kind.exit_code is not Exit.OK
            assert kind.means.endswith("."), kind.code


def shown(template: str) -> str:
    """A text of a kind with the names of what is filled in: `{name}` becomes NAME."""
    parts = string.Formatter().parse(template)
    text = "".join(f"{literal}{name.upper() if name and name != 'whose' else ''}" for literal, name, _, _ in parts)
    return text.replace("|", "\\|").replace("*", "\\*")


def row(kind: Kind) -> str:
    ends = kind.exit_code if kind.severity is Severity.PROBLEM else ""
    sign = {Severity.PROBLEM: "✗", Severity.NOTE: "!"}[kind.severity]
    return f"| {sign} | `{kind.code}` | {shown(kind.says)} | {shown(kind.means)} | {shown(kind.todo or '')} | {ends} |"


def test_the_documentation_has_every_kind_of_finding_and_no_other() -> None:
    """When this fails, put the rows that are missing into docs/doctor.md as they are shown."""
    documented = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith(("| ✗", "| !"))]
    expected = list(dict.fromkeys(row(each) for each in kinds() if each.severity is not Severity.OK))
    assert [each for each in expected if each not in documented] == []
    assert [each for each in documented if each not in expected] == []
    assert len(expected) > 60


def test_notes_end_with_nothing() -> None:
    assert note("x", "x", "x", "x").exit_code is Exit.OK
