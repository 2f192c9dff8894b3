"""How an archived stream is numbered for its readers, and what each of its records becomes on the wire. Pure.

The archive counts indices within a generation: upstream began the stream anew, and counted from 0 again. A reader here
gets one generation after the other, so the numbers go on where those before end. Of nearly every stream there is one
generation, and its numbers are upstream's own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from tailrace.ingest.storable import TOO_LARGE
from tailrace.model import Wire
from tailrace.serve.entries import Entry, V1Id
from tailrace.serve.recording import body_id
from tailrace.serve.records import Record, data_draft
from tailrace.store.contents import Stored

Item = Entry | Record
"""What stands under a number, as the wire has it: an entry of one whole line (v1), or a record (v2)."""

ITEM_BYTES = 350
"""What an item takes in memory besides its text, about; and of the text it has several copies, see `held_bytes`."""

V1_SEQ = 1_000_000
"""What is added to a number to make the second half of a v1 id: upstream counts the entries of each millisecond there,
and none has so many, so that an id of this server is told from one of upstream's."""


class Numbers(NamedTuple):
    """Where each generation begins."""

    starts: tuple[int, ...] = (0,)

    @classmethod
    def after(cls, ends: Sequence[int]) -> Numbers:
        """Return those of a stream whose generations before the present one had so many indices."""
        return cls(tuple(accumulate(ends, initial=0)))

    def of(self, generation: int, index: int) -> int:
        """Return the number of an index."""
        return self.starts[generation] + index

    def place(self, number: int) -> tuple[int, int]:
        """Return generation and index of a number; of one that nothing has yet, in the last generation."""
        generation = bisect_right(self.starts, number) - 1
        return generation, number - self.starts[generation]


def items_of(wire: Wire, first: int, stored: Sequence[Stored], else_ms: int) -> list[Item]:
    """Return what is stored of one generation, with its numbers; ``first`` is the number of index 0.

    What could not be a chunk comes as upstream sent it; what is not held whole is left out, like a hole. It has no time
    of its own: it gets that of the chunk before it, else of the one after it, ``else_ms`` when there is neither.
    """
    items: list[Item] = []
    at_ms = next((each.emitted_ms for each in stored if each.emitted_ms is not None), else_ms)
    for index, text, reason, emitted_ms in stored:
        at_ms = at_ms if emitted_ms is None else emitted_ms
        if reason != TOO_LARGE:
            items.append(item_of(wire, first + index, text, at_ms, chunk=not reason))
    return items


def item_of(wire: Wire, number: int, text: bytes, at_ms: int, *, chunk: bool = True) -> Item:
    """Return one of them. Its id is made from its number: the archive does not keep those that upstream gave."""
    if wire is Wire.V1:
        return Entry(V1Id(at_ms, V1_SEQ + number), text + b"\n")
    return Record(number, at_ms, data_draft(text, body_id(number)).body if chunk else text)


def held_bytes(texts: Iterable[bytes]) -> int:
    """Return what the items of so many texts take in memory, about: the text, its record, and that as JSON."""
    return sum(ITEM_BYTES + 3 * len(text) for text in texts)
