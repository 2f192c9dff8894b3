"""The blocking half of the Streams API is what tools/async_to_sync.py makes of the asyncio half."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[3] / "tools" / "async_to_sync.py"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("async_to_sync", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOLS = tool()


@pytest.mark.parametrize("source", list(TOOLS.HALVES))
def test_the_blocking_half_is_up_to_date(source: str) -> None:
    """If not: ``make halves``, and look at what it changed."""
    made = (TOOLS.PACKAGE / TOOLS.HALVES[source]).read_text(encoding="utf-8")
    assert made == TOOLS.blocking_half(source, (TOOLS.PACKAGE / source).read_text(encoding="utf-8"))


def test_no_word_of_asyncio_is_left() -> None:
    for made in TOOLS.HALVES.values():
        text = (TOOLS.PACKAGE / made).read_text(encoding="utf-8").partition("from __future__")[2]
        assert not any(word in text for word in ("async", "await", "Async", "aio")), made


@pytest.mark.parametrize("sentence", [*TOOLS.SENTENCES, *TOOLS.WORDS, *TOOLS.CODE])
def test_everything_that_is_replaced_stands_somewhere(sentence: str) -> None:
    sources = " ".join(" ".join((TOOLS.PACKAGE / each).read_text(encoding="utf-8").split()) for each in TOOLS.HALVES)
    assert " ".join(sentence.split()) in sources
