"""Every recorded wire case through the whole path: the archive shows what was sent, or what the protocol says of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.model import Wire
from tests.ingestion import TIMING, Ingestion
from tests.wirecases import WireCase, case_names, load_case, plain_client, running_case

CASES = {name: load_case(name) for name in case_names()}
EXPECTED = [name for name, case in CASES.items() if case.expected_chunks is not None]

# What the archive has of the cases that show a wrong read or an error: chunks, and what is in quarantine.
OTHERS: dict[str, tuple[int, list[str]]] = {
    # Resumed at a place that splits a line: its rest is no JSON. What was missed before is not asked for here.
    "v1_c_resume_after_entry0": (3, ['second line is split over three entries"}']),
    "v1_c_resume_inside_split": (3, ['it over three entries"}']),
    "v1_c_resume_after_last_complete": (0, []),
    # 200, nothing, and a body that breaks off: a fault, and the next connection is whole.
    "v1_f_bad_last_event_id": (0, []),
    "v1_f_resume_ms_only": (20, []),
    "v1_i_sentinel_and_oddities": (4, ["<<CLOSE_STREAM>>", "undefined", "not json at all"]),
    # 500s: retried.
    "v2_a_timeout_not_a_number": (0, []),
    "v2_j_deletion_pending_500": (0, []),
}


def archived(case: WireCase, database_url: str) -> tuple[list[bytes], list[str], str]:
    """The chunks, what is in quarantine, and the stream's state."""
    with running_case(case, timing=TIMING) as served:
        ingestion = Ingestion(database_url, served.url)
        try:
            ingestion.request(case.ref.run_id, case.ref.stream_key)
            ingestion.until_sealed(case.ref.run_id)
            raw = ingestion.rows(
                "SELECT q.raw FROM tailrace.quarantine q JOIN tailrace.streams s ON s.id = q.stream_id"
                " JOIN tailrace.runs r ON r.id = s.run"
                " WHERE r.run_id = %s AND s.stream_key = %s AND q.reason NOT IN ('unterminated', 'repeat')"
                " ORDER BY q.chunk_index",
                *case.ref,
            )
            return (
                ingestion.texts(*case.ref),
                [bytes(each).decode() for (each,) in raw],
                ingestion.state(*case.ref),
            )
        finally:
            ingestion.run("DELETE FROM tailrace.runs")  # two cases are of the same run
            ingestion.run("TRUNCATE tailrace.segments, tailrace.holes, tailrace.quarantine")
            ingestion.close()


def values(texts: list[bytes]) -> list[Any]:
    return [json.loads(text) for text in texts]


@pytest.mark.parametrize("wire", list(Wire))
def test_the_archive_shows_what_was_sent(wire: Wire, database_url: str) -> None:
    wrong = {}
    for name in EXPECTED:
        case = CASES[name]
        if case.wire is not wire:
            continue
        texts, raw, state = archived(case, database_url)
        same = (
            texts == case.expected_texts if case.expected_texts is not None else values(texts) == case.expected_chunks
        )
        if not same or raw or state != "sealed":
            wrong[name] = (texts, raw, state)
    assert wrong == {}


@pytest.mark.trap(11)
@pytest.mark.trap(12)
@pytest.mark.trap(45)
def test_a_wrong_read_or_an_error_ends_as_the_protocol_says(database_url: str) -> None:
    assert set(OTHERS) == set(CASES) - set(EXPECTED)
    found = {}
    for name in OTHERS:
        texts, raw, state = archived(CASES[name], database_url)
        found[name] = (len(texts), raw)
        assert state == "sealed", name
    assert found == OTHERS


@pytest.mark.trap(33)
def test_the_text_of_the_odd_characters_is_kept_to_the_byte(database_url: str) -> None:
    case = CASES["v1_d_unicode"]
    texts, _, _ = archived(case, database_url)
    assert texts == case.expected_texts
    joined = b"".join(texts).decode()
    assert all(odd in joined for odd in ("\u2028", "\u2029", "\u0085", "\\u0000", "\\ud800"))


@pytest.mark.trap(26)
def test_what_a_writer_lost_before_storage_is_not_ours_to_find(database_url: str) -> None:
    """v1 writers that reconnect skip or repeat chunks: the archive has what upstream stored, no more and no less."""
    case = CASES["v1_m_writer_reconnect_loss"]
    texts, raw, _ = archived(case, database_url)
    assert (len(texts), raw) == (36, [])


def test_a_case_is_served_as_it_was_recorded() -> None:
    case = CASES["v2_b_live_tail"]
    with running_case(case) as served, plain_client(served.url) as client:
        assert client.get(case.path, headers=case.request_headers).content == case.body
