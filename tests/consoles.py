"""A console over a test's archive, with real keys."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import sqlalchemy as sa
from starlette.applications import Starlette

from tailrace.config.own_keys import hashed, new_key
from tailrace.config.settings import Settings
from tailrace.serve.archive_access import archive_access
from tailrace.serve.console.app import Console, add_console
from tailrace.serve.console.archive import ConsoleArchive
from tailrace.serve.console.visitors import Proxy, Visitors
from tailrace.serve.late_answers import LateAnswers
from tailrace.store.access_keys import AccessKeys
from tests.upstream import RunningServer, running

HERE = "http://console.test"
SAME = {"sec-fetch-site": "same-origin"}
HTML = {"accept": "text/html"}

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    '"><svg/onload=window.pwned=1>',
    "</pre></code></td><script src=/console/static/run.js></script>",
    "</title></textarea><style>body { display: none }</style>",
    "javascript:window.pwned=1//' onmouseover=window.pwned=1 x='",
    "{{ 7 * 7 }} ${7*7} {% raw %} &lt;b&gt; &amp;",
    "\u202egnp.exe \u2066 \x07 \x1b[31m",
)
"""What a chunk, a key, a tag or a task may hold, and what must never be more than text."""


def key(engine: sa.Engine, environment: str = "default", *, acts: bool = False) -> str:
    """Make a key that reads an environment, and acts on it too."""
    made = new_key()
    AccessKeys(engine).add(f"key of {environment}{' that acts' if acts else ''}", environment, hashed(made), acts)
    return made


def hidden(page: httpx.Response) -> dict[str, str]:
    """Return what the form of a page brings back that nobody sees."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    return {name: html.unescape(value) for name, value in found}


def application(
    engine: sa.Engine, database_url: str, proxy: Proxy | None = None, **settings: Any
) -> tuple[Starlette, Console]:
    """Make an application that has nothing but a console."""
    visitors = Visitors(archive_access(Settings(**settings), engine), proxy)
    console = Console(ConsoleArchive(database_url), visitors, LateAnswers(late_s=0))
    app = Starlette()
    add_console(app, console)
    return app, console


@asynccontextmanager
async def asking(app: Starlette, console: Console, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Ask the application in this process; with a key, signed in."""
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=HERE, headers=HTML) as client:
        try:
            if key is not None:
                answer = await client.post("/console/sign-in", data={"key": key}, headers=SAME)
                assert answer.status_code == 303, answer.text
            yield client
        finally:
            console.close()


@contextmanager
def served(engine: sa.Engine, database_url: str, proxy: Proxy | None = None) -> Iterator[RunningServer]:
    """Serve a console on a port of this machine."""
    app, console = application(engine, database_url, proxy)
    try:
        with running(app) as server:
            yield server
    finally:
        console.close()
