"""Compare what is in the archive with what was sent. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple


class Differences(NamedTuple):
    """How many chunks are missing, more often there than sent, or would have to move. All 0: the same bytes."""

    lost: int
    duplicated: int
    out_of_order: int


def compare(sent: Sequence[bytes], archived: Sequence[bytes]) -> Differences:
    """Compare one stream. Texts may repeat: each has to be there as often as it was sent.

    A chunk that differs by a byte counts as lost, and as one that was never sent (duplicated).
    """
    if list(sent) == list(archived):
        return Differences(0, 0, 0)
    wanted, found = Counter(sent), Counter(archived)
    matches = SequenceMatcher(None, sent, archived, autojunk=False).get_matching_blocks()
    in_order = sum(match.size for match in matches)
    return Differences((wanted - found).total(), (found - wanted).total(), (wanted & found).total() - in_order)


def total(differences: Sequence[Differences]) -> Differences:
    """Add up what was found in several streams."""
    return Differences(*(sum(counts) for counts in zip(Differences(0, 0, 0), *differences, strict=True)))
