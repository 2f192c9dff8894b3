"""Variables that look like settings and are none."""

from __future__ import annotations

import pytest

from tailrace.config.settings import variables
from tailrace.config.unknown import Unknown, unknown_variables


def test_settings_are_known() -> None:
    names = [name for variable in variables() for name in variable.names]
    urls = ["TAILRACE_DATABASE_URL", "DATABASE_URL", "TAILRACE_REDIS_URL", "REDIS_URL", "TAILRACE_REDIS_MASTER"]
    assert unknown_variables([*names, *urls, "PATH", "TRIGGER_PROJECT_REF", "tailrace_slots"]) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TAILRACE_SLOT", "TAILRACE_SLOTS"),
        ("TAILRACE_BATCH_MAX_CHUNK", "TAILRACE_BATCH_MAX_CHUNKS"),
        ("TAILRACE_LEASE_SECOND", "TAILRACE_LEASE_SECONDS"),
        ("TAILRACE_RETENTION_DAY", "TAILRACE_RETENTION_DAYS"),
        ("TAILRACE_DATABSE_URL", "TAILRACE_DATABASE_URL"),
        ("tailrace_on_seald", "TAILRACE_ON_SEALED"),
        ("TAILRACE_UNLIKE_ANY_OTHER", None),
        ("TAILRACE_PORT", None),
        ("TAILRACE_SERVICE_HOST", None),
        ("TAILRACE_SERVICE_PORT", None),
        ("TAILRACE_SERVICE_PORT_METRICS", None),
        ("TAILRACE_PORT_8080_TCP_ADDR", None),
    ],
)
def test_the_nearest_setting_is_named(name: str, meant: str | None) -> None:
    assert unknown_variables([name]) == [Unknown(name, meant)]
