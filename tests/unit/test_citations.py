"""What code, tests and docs cite by section is there: `protocol §1.7`, `design §2`. Links between documents, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = {"protocol": ROOT / "docs" / "protocol.md", "design": ROOT / "docs" / "design.md"}
CITING = ("worker", "tests", "migrations", "benchmarks", "docs")
SUFFIXES = {".py", ".md", ".sql", ".toml", ".mako", ".yml"}

SECTIONS = r"§\d+(?:\.\d+)*(?:(?:, | and | to )§\d+(?:\.\d+)*)*"
CITATION = re.compile(rf"\b([Pp]rotocol|[Dd]esign) ({SECTIONS})")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def texts() -> list[tuple[Path, str]]:
    files = [path for folder in CITING for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    files += [*ROOT.glob("*.md"), *ROOT.glob("*.toml")]
    here = Path(__file__)
    return [
        (path.relative_to(ROOT), path.read_text(encoding="utf-8"))
        for path in sorted(files)
        if path != here and "node_modules" not in path.parts
    ]


def numbers(document: Path) -> set[str]:
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*)\.? ", document.read_text(encoding="utf-8"), re.MULTILINE))


def anchors(document: Path) -> set[str]:
    """The headings as links name them."""
    headings = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_section_that_is_cited_is_there() -> None:
    known = {name: numbers(path) for name, path in DOCUMENTS.items()}
    cited = [
        (path, document.lower(), section)
        for path, text in texts()
        for document, sections in CITATION.findall(text)
        for section in re.findall(r"[\d.]*\d", sections)
    ]
    assert len(cited) > 40
    assert [each for each in cited if each[2] not in known[each[1]]] == []


def test_every_citation_has_the_one_form() -> None:
    """A section without its document, or with it in another form, is found by nobody who searches."""
    for path, text in texts():
        if path in {Path("docs/protocol.md"), Path("docs/design.md")}:
            continue  # they cite their own sections by number alone
        left = CITATION.sub("", text)
        assert not re.search(r"§|\b(?:PROTOCOL|DESIGN)\b(?!_)", left), path


def test_the_documents_cite_their_own_sections_rightly() -> None:
    for document in DOCUMENTS.values():
        own = CITATION.sub("", document.read_text(encoding="utf-8"))
        assert set(re.findall(r"§(\d+(?:\.\d+)*)", own)) <= numbers(document), document.name


@pytest.mark.parametrize("path", [path for path, _ in texts() if path.suffix == ".md"], ids=str)
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    for target, anchor in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        file = (ROOT / path).parent / target if target else ROOT / path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}#{anchor}"
