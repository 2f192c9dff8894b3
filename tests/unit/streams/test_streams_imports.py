"""What importing the API needs, and what it does: as little as possible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tailrace.runs.aio
import tailrace.streams.aio

ROOT = Path(__file__).parents[3]

ONLY = """
import sys

NOT_NEEDED = {
    "sqlalchemy", "celery", "kombu", "redis", "psycopg", "structlog", "pydantic", "pydantic_settings", "typer",
    "gevent", "greenlet", "starlette", "uvicorn", "alembic", "psutil",
}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NOT_NEEDED:
            raise ModuleNotFoundError(f"No module named {name!r} (refused by the test)", name=name)
        return None


sys.meta_path.insert(0, Refuse())
"""

READ = """
import threading
from tailrace import streams
from tailrace.streams import aio
import tailrace.runs, tailrace.runs.aio

assert threading.active_count() == 1
ours = {name for name in sys.modules if name.startswith("tailrace.")}
assert not {name for name in ours if name.startswith(("tailrace.store", "tailrace.config.settings", "tailrace.devtools.servers"))}, ours
streams.read("run_1", client=streams.Client("tr_dev_x"))
aio.read("run_1", client=streams.Client("tr_dev_x"))
try:
    streams.read("run_1", source="archive", client=streams.Client("tr_dev_x", database_url="postgresql://x"))
except ModuleNotFoundError as error:
    assert error.name == "sqlalchemy"
else:
    raise AssertionError("the archive needs SQLAlchemy")
print("fine")
"""

IMPORT = """
import sys
import httpx, httpx_sse, msgspec

known = set(sys.modules)
import tailrace.streams, tailrace.streams.aio, tailrace.runs, tailrace.runs.aio

names = {name.partition(".")[0] for name in set(sys.modules) - known}
print(sorted(names - set(sys.stdlib_module_names)))
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_from_upstream_needs_httpx_httpx_sse_and_msgspec_only() -> None:
    assert run(ONLY + READ) == "fine"


def test_importing_pulls_in_nothing_else() -> None:
    assert run(IMPORT) == "['tailrace']"


@pytest.mark.parametrize("module", ["tailrace.streams", "tailrace.streams.aio", "tailrace.runs", "tailrace.runs.aio"])
def test_everything_that_a_module_names_is_there(module: str) -> None:
    assert run(f"from {module} import *; print('fine')") == "fine"


def test_importing_reads_no_setting() -> None:
    code = (
        "import os; os.environ.update(TRIGGER_SECRET_KEY='\\n', TRIGGER_API_URL='nonsense', DATABASE_URL='nonsense');"
        "import tailrace.streams, tailrace.runs, tailrace.streams.aio, tailrace.runs.aio; print('fine')"
    )
    assert run(code) == "fine"


def test_both_flavours_have_the_same_names() -> None:
    assert tailrace.streams.__all__ == tailrace.streams.aio.__all__
    assert tailrace.runs.__all__ == tailrace.runs.aio.__all__
