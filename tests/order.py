"""In which order tests run when several processes share them: what takes long first, so that all end together.

A pytest plugin (`tests/conftest.py` loads it) for ``--dist loadgroup``. The tests of a file stay in one process, in
their order, since they share its fixtures. Those of the files in `APART` do not: each is handed out by itself.
"""

from __future__ import annotations

import pytest

FIRST = ("tests/acceptance/test_demo.py",)
"""Files whose tests share what takes long to make, longest first."""

APART = (
    "tests/integration/test_outage.py",
    "tests/integration/test_takeover.py",
    "tests/integration/test_fleet_limit.py",
    "tests/integration/test_backpressure.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_cancel.py",
    "tests/integration/test_wire_cases.py",
    "tests/integration/test_keys_file.py",
    "tests/integration/test_streams_clients.py",
    "tests/integration/test_leases.py",
    "tests/integration/test_poison.py",
    "tests/integration/test_backfill.py",
    "tests/acceptance/test_cli_worker.py",
    "tests/acceptance/test_cli_ingest.py",
    "tests/integration/test_completeness.py",
    "tests/integration/test_reader.py",
)
"""Files whose tests share nothing, those with the longest test first."""

_PLACES = {path: place for place, path in enumerate((*FIRST, *APART))}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files above before all others, and name the group of each test that has one."""
    items.sort(key=lambda item: _PLACES.get(_file(item), len(_PLACES)))  # stable: else as collected
    for item in items:
        if _file(item) not in APART:
            item.add_marker(pytest.mark.xdist_group(_file(item).replace("/", ".")))


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::", 1)[0]
