"""How entries become events: the same lines however the text is cut into entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.serve.entries import Entry, LineJoiner, V1Id, js_trim

_TEXT = st.text(alphabet="ab \n\n\r\té\u2028\u0085\ufeff", max_size=60)


def events(pieces: list[str]) -> bytes:
    joiner = LineJoiner()
    made = joiner.add(Entry(V1Id(1, number), piece.encode()) for number, piece in enumerate(pieces))
    return made + joiner.close()


def lines(body: bytes) -> list[bytes]:
    return [event.partition(b"\ndata: ")[2] for event in body.split(b"\n\n") if event]


@given(_TEXT, st.lists(st.integers(0, 60)))
def test_the_lines_do_not_depend_on_how_the_text_was_cut(text: str, cuts: list[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert lines(events(pieces)) == lines(events([text]))


@given(st.lists(_TEXT, max_size=6))
def test_each_line_has_the_id_of_the_entry_that_completed_it(pieces: list[str]) -> None:
    expected = []
    begun = ""
    last = 0
    for number, piece in enumerate(pieces):
        *whole, begun = (begun + piece).split("\n")
        last = number if piece else last
        expected += [(number, line) for line in whole if js_trim(line.encode())]
    if rest := js_trim(begun.encode()):
        expected.append((last, rest.decode()))
    assert events(pieces) == b"".join(f"id: 1-{number}\ndata: {line}\n\n".encode() for number, line in expected)


def test_trim_removes_what_javascript_calls_blank_and_nothing_else() -> None:
    assert js_trim("\ufeff\u00a0\u2028 x\u0085 \u3000".encode()) == "x\u0085".encode()
    assert js_trim(b"\x1c x \x1f") == b"\x1c x \x1f"


def test_an_entry_without_text_is_skipped() -> None:
    assert events(["ha", "", "lf\n"]) == b"id: 1-2\ndata: half\n\n"
