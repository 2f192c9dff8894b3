"""In which order tests run when several processes share them: what takes long first, so that all end together.

A pytest plugin (`tests/conftest.py` loads it) for ``--no-loadscope-reorder``. The tests of a file stay in one process, in
their order, since they share its fixtures. Those of the files in `APART` do not: each is handed out by itself.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FIRST = ("tests/acceptance/test_demo.py", "tests/browser/test_console.py")
"""Files whose tests share what takes long to make, longest first."""

APART = (
    "tests/integration/test_outage.py",
    "tests/integration/test_upstream_returns.py",
    "tests/integration/test_takeover.py",
    "tests/integration/test_fleet_limit.py",
    "tests/integration/test_backpressure.py",
    "tests/integration/test_drain.py",
    "tests/integration/test_few_slots.py",
    "tests/integration/test_cancel.py",
    "tests/integration/test_refused_messages.py",
    "tests/integration/test_signed_messages.py",
    "tests/integration/test_clock_set_back.py",
    "tests/integration/test_operate.py",
    "tests/integration/test_operate_copies.py",
    "tests/integration/test_wire_cases.py",
    "tests/integration/test_keys_file.py",
    "tests/integration/test_streams_clients.py",
    "tests/integration/test_leases.py",
    "tests/integration/test_poison.py",
    "tests/integration/test_backfill.py",
    "tests/acceptance/test_cli_worker.py",
    "tests/acceptance/test_cli_ingest.py",
    "tests/acceptance/test_drill.py",
    "tests/integration/test_completeness.py",
    "tests/integration/test_reader.py",
    "tests/integration/test_redises.py",
    "tests/integration/test_pgbouncer.py",
    "tests/integration/test_connections.py",
)
"""Files whose tests share nothing, those with the longest test first."""

_PLACES = {path: place for place, path in enumerate((*FIRST, *APART))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files above before all others."""
    items.sort(key=lambda item: _PLACES.get(_file(item), len(_PLACES)))  # stable: else as collected


class ByFile(LoadScopeScheduling):
    """Hands out what is together in a unit: a file, or a test of those in `APART`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return nodeid if path in APART else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Not ``--dist loadgroup``: it writes groups into test ids by a private attribute that pytest 9.1 does not read."""
    return ByFile(config, log)


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::", 1)[0]
