"""The site's pages and links, without building it (`make docs` does): each page once, no link that leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import docs_site
from tools.docs_site import BROUGHT, ROOT, loads_from_elsewhere, relinked, slug, swallowed_lists

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
WANTED = ["Home", "Try", "Use", "Query", "Operate", "Understand", "Contribute"]


def pages(nav: Any) -> Iterator[str]:
    """Return the pages of a part of the navigation, in order."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for each in nav.values():
            yield from pages(each)
    else:
        for each in nav:
            yield from pages(each)


def test_every_page_is_in_the_navigation_once() -> None:
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages(CONFIG["nav"])) == sorted([*written, *BROUGHT.values()])


def test_the_navigation_is_what_a_reader_wants() -> None:
    assert [name for part in CONFIG["nav"] for name in part] == WANTED


def test_nothing_is_fetched_and_everything_is_checked() -> None:
    assert CONFIG["strict"] is True
    assert CONFIG["theme"]["font"] is False
    assert set(CONFIG["validation"]["links"].values()) == set(CONFIG["validation"]["nav"].values()) == {"warn"}
    assert CONFIG["hooks"] == ["tools/docs_site.py"]


@pytest.mark.parametrize("source", [*BROUGHT, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_no_link_of_a_page_leads_nowhere(source: str) -> None:
    relinked((ROOT / source).read_text(), source)


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What it guarantees", "what-it-guarantees"),
        ("1.7 The last line, held", "17-the-last-line-held"),
        ("`tailrace up`, `tailrace down`", "tailrace-up-tailrace-down"),
        ("Start, stop — kill", "start-stop--kill"),
        ("14. Traps: every way", "14-traps-every-way"),
        ("snake_case", "snake_case"),
    ],
)
def test_a_heading_has_the_anchor_that_github_gives_it(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("README.md", "CONTRIBUTING.md", "docs/sql.md", "worker/one.py", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/a.md", "[x](sql.md#views)", "[x](sql.md#views)"),
        ("docs/a.md", "[x](../README.md#use-it)", "[x](overview.md#use-it)"),
        ("README.md", "[x](docs/sql.md)", "[x](sql.md)"),
        ("README.md", "[the\nway](CONTRIBUTING.md)", "[the\nway](contributing.md)"),
        ("benchmarks/README.md", "[x](../docs/sql.md)", "[x](sql.md)"),
        (
            "docs/a.md",
            "[here](#below) [there](https://trigger.dev/docs)",
            "[here](#below) [there](https://trigger.dev/docs)",
        ),
        ("README.md", "[one.py](worker/one.py)", "`one.py`"),
        ("README.md", "[`one`](worker/one.py) [see one](worker/one.py)", "`one` see one"),
        ("README.md", "`[x](nowhere.md)` [`a`](docs/sql.md)", "`[x](nowhere.md)` [`a`](sql.md)"),
        ("README.md", "```md\n[x](nowhere.md)\n```\n[x](docs/sql.md)", "```md\n[x](nowhere.md)\n```\n[x](sql.md)"),
    ],
)
def test_links_hold_within_the_site(tree: Path, source: str, text: str, expected: str) -> None:
    assert relinked(text, source, tree) == expected


def test_a_file_is_shown_in_the_repository_when_there_is_one(tree: Path) -> None:
    linked = relinked("[one.py](worker/one.py#L3)", "README.md", tree, "https://host.example/tailrace/")
    assert linked == "[one.py](https://host.example/tailrace/blob/main/worker/one.py#L3)"


def test_a_link_to_a_file_that_is_not_there_is_refused(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"docs/a\.md links to gone\.md"):
        relinked("see [x](gone.md)", "docs/a.md", tree)


def test_a_list_that_became_running_text_is_found() -> None:
    assert swallowed_lists("<p>Ends:\n1. <b>one</b>\n2. two</p>\n<p>a - b\n-1 is no item</p>") == ["1. <b>one</b>"]
    assert swallowed_lists("<p>one</p>\n<ul>\n<li>two</li></ul><p>three</p><pre>\n- four</pre>") == []


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<script src="https://cdn.example/a.js"></script>', True),
        ('<link rel="stylesheet" href="//cdn.example/a.css">', True),
        ("@import 'https://cdn.example/a.css';", True),
        ("a{background:url(https://cdn.example/a.png)}", True),
        ('<script src="assets/a.js"></script><a href="https://trigger.dev">x</a><link href="assets/a.css">', False),
        ("a{background:url(data:image/png;base64,AA)}", False),
    ],
)
def test_what_would_be_loaded_from_elsewhere_is_found(html: str, found: bool) -> None:
    assert bool(loads_from_elsewhere(html)) is found


def test_the_page_that_helps_to_find_ones_way_names_every_other() -> None:
    index = relinked((ROOT / "docs/index.md").read_text(), "docs/index.md")
    named = set(re.findall(r"\]\(([\w-]+\.md)", index))
    assert {page for page in pages(CONFIG["nav"]) if "/" not in page} - named == {"index.md", "trials.md"}
    assert CONFIG["docs_dir"] == docs_site.DOCS
