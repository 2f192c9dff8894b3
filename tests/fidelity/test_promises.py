"""Every sentence that promises something has tests that fail without it: `promises.toml` is the list, sentence to tests."""

from __future__ import annotations

import pytest

from tests.fidelity import promises
from tests.fidelity.promises import SECTIONS

NO_TEST_IS_NEEDED = 16
"""At most so many sentences promise nothing: they head a table, or advise."""


def test_the_list_is_of_the_documents_that_promise() -> None:
    assert list(promises.listed()) == list(SECTIONS)


@pytest.mark.parametrize("document", SECTIONS)
def test_every_sentence_is_in_the_list(document: str) -> None:
    excerpts = promises.listed()[document]
    forgotten = [said for said in promises.sentences(document) if not any(excerpt in said for excerpt in excerpts)]
    assert forgotten == []


@pytest.mark.parametrize("document", SECTIONS)
def test_every_excerpt_is_of_one_sentence_that_is_still_there(document: str) -> None:
    sentences = promises.sentences(document)
    found = {excerpt: sum(excerpt in said for said in sentences) for excerpt in promises.listed()[document]}
    assert {excerpt: count for excerpt, count in found.items() if count != 1} == {}


def test_every_test_that_is_named_is_there() -> None:
    known = promises.tests()
    named = {test for proofs in promises.listed().values() for proof in proofs.values() for test in promises.of(proof)}
    assert len(named) > 100
    assert sorted(named - known) == []


def test_few_sentences_promise_nothing() -> None:
    reasons = [proof for proofs in promises.listed().values() for proof in proofs.values() if isinstance(proof, str)]
    assert all(reasons)
    assert len(reasons) <= NO_TEST_IS_NEEDED
    assert [] not in [proof for proofs in promises.listed().values() for proof in proofs.values()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# A\n\nOne. Two\ngoes on; so. (test: `x.py`) `Three` v1. v2 too. (Four.)\n", ["One.", "Two goes on; so.", "`Three` v1.", "v2 too.", "(Four.)"]),
        ("- A. Tests: `test_a.py`, `b.py`.\n- B.\n  C.\n", ["A.", "B.", "C."]),
        ("| | Promise |\n|---|---|\n| G1 | One. Two. (test: `x`) |\n", ["One.", "Two."]),
        ("| Fault | Promise | Test | Last measured |\n|---|---|---|---|\n| a | b; c | `t.py` | 3 s |\n", ["a | b; c"]),
        ("| Fault | Struck |\n|---|---|\n| a | 3 |\n", []),
        ("**Two.** Tests.\n\n| Decision | How |\n|---|---|\n| a | b |\n| c | d |\n\nE.\n", ["**Two.** Tests.", "a | b", "c | d", "E."]),
    ],
)  # fmt: skip
def test_sentences_are_taken_apart(text: str, said: list[str]) -> None:
    """A reader that overlooks some would let them be forgotten."""
    assert promises.in_text(text) == said
