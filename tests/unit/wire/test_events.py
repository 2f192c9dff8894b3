"""Framing: text in any blocks → the same events, in bounded memory and linear time."""

from __future__ import annotations

import time
import tracemalloc
from importlib.metadata import version
from sys import getsizeof

import pytest
from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.wire.events import HEAD_CHARS, Framer, OversizedEvent

LIMIT = 1 << 24
Shown = tuple[str, str, str, bool]


def shown(event: ServerSentEvent) -> Shown:
    return event.event, event.data, event.id, isinstance(event, OversizedEvent)


def framed(text: str, size: int = 0, limit: int = LIMIT) -> list[Shown]:
    framer = Framer(limit)
    size = size or max(1, len(text))
    return [shown(event) for at in range(0, len(text), size) for event in framer.feed(text[at : at + size])]


def plain(data: str, event_id: str = "", name: str = "message") -> Shown:
    return name, data, event_id, False


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("", []),
        ("data: 1", []),
        ("data: 1\n", []),
        ("data: 1\n\n", [plain("1")]),
        ("data:1\n\n", [plain("1")]),
        ("data:  1\n\n", [plain(" 1")]),
        ("data: 1\r\n\r\n", [plain("1")]),
        ("id: 5-0\ndata: 1\n\ndata: 2\n\n", [plain("1", "5-0"), plain("2", "5-0")]),
        ("data: 1\nid: 5-0\n\n", [plain("1", "5-0")]),
        ("event: batch\nid: 4,5,6\ndata: {}\n\n", [plain("{}", "4,5,6", "batch")]),
        ("id: 4,5,6\nevent: batch\ndata: {}\n\n", [plain("{}", "4,5,6", "batch")]),
        ("data: 1\ndata: 2\n\n", [plain("1\n2")]),
        ("data\n\ndata:\n\n", []),
        ("unknown: 1\ndata: 2\nretry: x\n\n", [plain("2")]),
        ("\ufeffdata: 1\n\n\ufeffdata: 2\n\n", [plain("1")]),
        ("\n\n\n", []),
        (": ping\n\n", []),
    ],
)
def test_blocks_become_events(text: str, events: list[Shown]) -> None:
    assert [event for event in framed(text) if event[1]] == events
    assert [event for event in framed(text, 1) if event[1]] == events


@pytest.mark.trap(34)
def test_a_ping_after_an_id_is_an_event_without_data() -> None:
    """httpx-sse's issue 35: the caller must take it for a sign of life and nothing else."""
    assert framed(": ping\n\nid: 5-0\ndata: 1\n\n: ping\n\n") == [plain("1", "5-0"), plain("", "5-0")]


@pytest.mark.trap(33)
@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\0"])
def test_only_a_line_feed_ends_a_line(odd: str, size: int) -> None:
    """Python's own line ends, and a CR alone, are part of what a writer sent."""
    assert framed(f"id: 1-0\ndata: [1,{odd}2]\n\n", size) == [plain(f"[1,{odd}2]", "1-0")]


@pytest.mark.trap(33)
def test_httpx_sse_is_one_that_keeps_to_the_specification() -> None:
    assert tuple(map(int, version("httpx-sse").split("."))) >= (0, 4, 2)


def test_the_decoder_of_httpx_sse_has_the_parts_we_use() -> None:
    decoder = SSEDecoder()
    assert decoder.decode("event: batch") is decoder.decode("data: 1") is decoder.decode("id: 7") is None
    assert (decoder._event, decoder._data, decoder._last_event_id) == ("batch", ["1"], "7")
    event = decoder.decode("")
    assert event is not None
    assert (event.event, event.data, event.id) == ("batch", "1", "7")
    assert (decoder._event, decoder._data, decoder._last_event_id) == ("", [], "7")


PIECES = st.sampled_from(
    (
        *("\n", "\n\n", "\r\n", "\r", "data: ", "data:", "data", "id: 1-2", "id:", "event: batch", ": c", "retry: 3"),
        *("x" * 700, "y" * 5000, "data: " + "q" * 1100, "\u2028", "é", "😀", "\ufeff", "\0", "\udc80"),
    )
)


@given(st.lists(PIECES, max_size=14).map("".join), st.lists(st.integers(1, 900), max_size=60), st.integers(1024, 9000))
@example("\n\r\nx", [1, 1, 1], 1024)
def test_how_a_body_is_cut_makes_no_difference(text: str, sizes: list[int], limit: int) -> None:
    framer = Framer(limit)
    found, at = [], 0
    for size in [*sizes, len(text) + 1]:
        found += [shown(event) for event in framer.feed(text[at : at + size])]
        at += size
        held = sum(map(len, framer._line)) + sum(map(len, framer._fields._data)) + len(framer._head or "")
        assert held <= max(limit, HEAD_CHARS) + HEAD_CHARS + 900
    assert found == framed(text, limit=limit)


@given(st.text(max_size=400), st.integers(1, 50))
def test_any_text_is_framed_without_an_error(text: str, size: int) -> None:
    assert framed(text, size) == framed(text)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_an_event_beyond_the_limit_is_its_head_and_the_stream_goes_on(size: int) -> None:
    text = "id: 1-0\ndata: 1\n\n" + "id: 2-0\ndata: " + "x" * 9000 + "\n\n" + "id: 3-0\ndata: 3\n\n"
    assert framed(text, size, 6000) == [
        plain("1", "1-0"),
        ("message", "x" * HEAD_CHARS, "2-0", True),
        plain("3", "3-0"),
    ]


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_many_lines_count_as_one_event(size: int) -> None:
    text = "event: batch\n" + "data: 12345\n" * 1000 + "id: 7,8,9\n\ndata: 2\n\n"
    (head, after) = framed(text, size, 6000)
    assert head == ("batch", "\n".join(["12345"] * 1000)[:HEAD_CHARS], "7,8,9", True)
    assert after == plain("2", "7,8,9")


@pytest.mark.parametrize("line", [": " + "c" * 9000, "other: " + "o" * 9000])
def test_a_huge_line_that_is_no_data_is_no_event(line: str) -> None:
    assert framed(f"id: 1-0\n{line}\n\nid: 2-0\ndata: 2\n\n", limit=6000) == [plain("", "1-0"), plain("2", "2-0")]


def test_an_event_just_at_the_limit_is_whole() -> None:
    line = "data: " + "x" * 5994
    for text in (f"{line}\n\n", f"{line}\r\n\r\n"):
        assert framed(text, 1, 6000) == framed(text, 0, 6000) == [plain("x" * 5994)]
        assert framed(text, 0, 5999) == framed(text, 1, 5999) == [("message", "x" * HEAD_CHARS, "", True)]


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_the_limit_is_one_of_bytes_not_of_characters(size: int) -> None:
    for text, whole in (("é" * 2997, True), ("é" * 2998, False), ("😀" * 1498, True), ("😀" * 1499, False)):
        (event,) = framed(f"data: {text}\n\n", size, 6000)
        assert event == plain(text) if whole else event[3]


@pytest.mark.parametrize("text", ["x", "é", "я", "😀"])
def test_what_it_holds_is_told_as_what_it_takes(text: str) -> None:
    framer = Framer(LIMIT)
    framer.feed("id: 1-0\ndata: 1\n\ndata: ")
    for _ in range(40):
        framer.feed(text * 8192)
    held = sum(map(getsizeof, framer._line))
    assert held <= framer.held_bytes <= held + 200
    framer.feed("\ndata: 2")
    assert framer.held_bytes >= sum(map(getsizeof, framer._fields._data))
    framer.feed("\n\n")
    assert framer.held_bytes == 0


def test_memory_is_that_of_the_limit_whatever_comes() -> None:
    """8 MiB in one line, in one event of many lines, and of lines without end: 256 KiB is kept, not more."""
    block = "x" * 65_536
    for text in (block, block + "\ndata: ", "data: " + "y" * 500 + "\n"):
        framer = Framer(1 << 18)
        framer.feed("data: ")
        tracemalloc.start()
        for _ in range((8 << 20) // len(text)):
            assert framer.feed(text) == []
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_large_events_take_linear_time() -> None:
    def seconds(mib: int) -> float:
        block = "x" * 65_536
        best = 9.0
        for _ in range(3):
            framer = Framer(1 << 26)
            framer.feed("id: 1-0\ndata: ")
            began = time.process_time()
            for _ in range(mib * 16):
                framer.feed(block)
            (event,) = framer.feed("\n\n")
            best = min(best, time.process_time() - began)
            assert len(event.data) == mib << 20
        return best

    assert seconds(16) < 10 * max(seconds(4), 0.002)  # four times as much; a quadratic one takes sixteen times as long
