"""What reading streams promises, blocking and asyncio, from upstream, from the archive and from one into the other.

Each test is written once and run on every way of reading that it is about.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tailrace.devtools.servers.postgres import Postgres
from tailrace.model import Wire
from tests.accounts import assert_balanced
from tests.streamcases import FLAVOURS, SOURCES, Flavour, Place, World, running_flavour, running_world


@pytest.fixture(scope="session")
def world(postgres_server: Postgres, template_database: str) -> Iterator[World]:
    with running_world(postgres_server, template_database) as world:
        yield world
        assert_balanced(world.archiver.url)


@pytest.fixture(scope="module", params=FLAVOURS)
def api(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    with running_flavour(request.param) as flavour:
        yield flavour


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=list(Wire), ids=str)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture
def place(world: World, wire: Wire, source: str) -> Place:
    """A run of either wire, read from anywhere."""
    return world.place(wire, source)


@pytest.fixture
def live(world: World, wire: Wire) -> Place:
    """A run of either wire, read from upstream."""
    return world.place(wire)
