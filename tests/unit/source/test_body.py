"""Bodies: compression undone in bounded steps, bytes that are not UTF-8 kept, a cut never taken for an end."""

from __future__ import annotations

import tracemalloc
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import SourceUnavailable
from tailrace.model import Wire
from tailrace.source.body import STEP_BYTES, BodyText, read_text
from tests.decoding import Blocks, arrivals, every, outcome, v1_event

GZIP = {"content-encoding": "gzip"}
BODY = b"".join(v1_event(f"5-{n}", f'{{"n":{n}}}') for n in range(300))


def zipped(body: bytes, *, window: int = 31, flush_every: int = 0) -> bytes:
    """Compress; with ``flush_every``, as Express does for event streams: so that nothing waits in the compressor."""
    compressor = zlib.compressobj(wbits=window)
    if not flush_every:
        return compressor.compress(body) + compressor.flush()
    parts = [compressor.compress(part) + compressor.flush(zlib.Z_SYNC_FLUSH) for part in every(body, flush_every)]
    return b"".join(parts) + compressor.flush()


def response(body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.Response(200, headers=headers, stream=Blocks([body]))


@pytest.mark.trap(41)
@pytest.mark.parametrize("size", [1, 100, 65_536])
@pytest.mark.parametrize("flush_every", [0, 40])
@pytest.mark.parametrize(("encoding", "window"), [("gzip", 31), ("x-gzip", 31), ("GZIP", 31), ("deflate", 15)])
def test_a_compressed_body_says_the_same(encoding: str, window: int, flush_every: int, size: int) -> None:
    compressed = zipped(BODY, window=window, flush_every=flush_every)
    found = outcome(every(compressed, size), Wire.V1, headers={"content-encoding": encoding})
    assert found == outcome([BODY], Wire.V1)


def test_what_was_flushed_is_given_out_before_more_comes() -> None:
    compressor = zlib.compressobj(wbits=31)
    first = compressor.compress(v1_event("5-0", "1")) + compressor.flush(zlib.Z_SYNC_FLUSH)
    reader = arrivals([first, b"never asked for"], Wire.V1, headers=GZIP)
    assert [record.text for record in next(reader).records] == ["1"]


def test_a_body_of_several_members_and_padding_is_one_body() -> None:
    compressed = zipped(BODY[:500]) + zipped(BODY[500:]) + b"\0\0\0"
    assert outcome([compressed], Wire.V1, headers=GZIP) == outcome([BODY], Wire.V1)


@pytest.mark.trap(13)
@pytest.mark.parametrize("flush_every", [0, 40])
def test_a_compressed_body_cut_anywhere_is_no_clean_end(flush_every: int) -> None:
    compressed = zipped(BODY, flush_every=flush_every)
    whole, _ = outcome([BODY], Wire.V1)
    for cut in range(1, len(compressed), 7):
        found, error = outcome([compressed[:cut]], Wire.V1, headers=GZIP)
        assert (found, error) == (whole[: len(found)], "SourceUnavailable")


def test_an_empty_body_is_an_end_compressed_or_not() -> None:
    assert outcome([], Wire.V1, headers=GZIP) == outcome([], Wire.V1) == ([], "")


@pytest.mark.parametrize("damage", [0, 3, 12, 40])
def test_a_damaged_body_is_a_fault(damage: int) -> None:
    compressed = bytearray(zipped(BODY))
    compressed[damage] ^= 0xFF
    assert outcome([bytes(compressed)], Wire.V1, headers=GZIP)[1] == "SourceUnavailable"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "unheard-of"])
def test_a_compression_we_do_not_know_is_a_fault(encoding: str) -> None:
    assert outcome([BODY], Wire.V1, headers={"content-encoding": encoding}) == ([], "SourceUnavailable")


def test_a_bomb_does_not_fill_the_memory() -> None:
    """32 MiB of one line in 32 KiB, in one block: the event is skipped, in steps, and the stream goes on."""
    compressor = zlib.compressobj(9, wbits=31)
    bomb = compressor.compress(b"id: 5-0\ndata: 1\n\nid: 5-1\ndata: ")
    mib = b"x" * (1 << 20)
    bomb += b"".join(compressor.compress(mib) for _ in range(32))
    bomb += compressor.compress(b"\n\nid: 5-2\ndata: 3\n\n") + compressor.flush()
    assert len(bomb) < 1 << 16
    tracemalloc.start()
    found, error = outcome([bomb], Wire.V1, limit=1 << 20, headers=GZIP)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ([record.text[:3] for record in found], [record.oversized for record in found], error) == (
        ["1", "xxx", "3"],
        [False, True, False],
        "",
    )
    assert peak < 8 << 20


def test_a_reader_gets_its_turn_while_a_large_event_arrives() -> None:
    compressed = zipped(b"id: 5-0\ndata: " + b"x" * (50 * STEP_BYTES) + b"\n\n")
    assert sum(not arrival.records for arrival in arrivals([compressed], Wire.V1, headers=GZIP)) >= 50


@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_bytes_called_gzip_are_text_or_a_fault(body: bytes, size: int) -> None:
    found, error = outcome(every(body, size), Wire.V1, headers=GZIP)
    assert error in ("SourceUnavailable", "") if body else (found, error) == ([], "")


@given(st.binary(max_size=200), st.integers(1, 20))
def test_bytes_come_back_from_the_text_whatever_they_are(body: bytes, size: int) -> None:
    text = BodyText(response(b"", {}))
    decoded = "".join(piece for block in every(body, size) for piece in text.feed(block))
    assert body.startswith(decoded.encode("utf-8", "surrogateescape"))
    assert len(body) - len(decoded.encode("utf-8", "surrogateescape")) < 4  # the begun character at the end


def test_the_charset_of_an_event_stream_is_utf8_whatever_is_said() -> None:
    headers = {"content-type": "text/event-stream; charset=latin-1"}
    assert outcome([v1_event("5-0", '"é"')], Wire.V1, headers=headers)[0][0].text == '"é"'


def test_a_whole_body_is_read_up_to_a_limit() -> None:
    body = zipped(b"x" * 100_000)
    assert read_text(response(body, GZIP), 100_000) == "x" * 100_000
    assert read_text(response(body, GZIP), 99_999) is None
    assert read_text(response(b"", {}), 0) == ""
    with pytest.raises(SourceUnavailable):
        read_text(response(body[:-9], GZIP), 100_000)
