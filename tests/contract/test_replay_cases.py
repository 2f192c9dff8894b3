"""The server over the recorded wire cases: the first answer is the recording, later ones go on from it."""

from __future__ import annotations

import re
import time

import httpx
import pytest

from tailrace.model import StreamRef, Wire
from tailrace.serve.entries import V1Id
from tests.wirecases import body_entries, body_records, case_names, load_case, load_steps, plain_client, running_case


@pytest.mark.parametrize("name", case_names())
def test_the_first_answer_is_the_recording(name: str) -> None:
    case = load_case(name)
    with running_case(case) as served, plain_client(served.url) as client:
        with client.stream("GET", case.path, headers=case.request_headers) as response:
            assert response.status_code == case.status
            assert {(name.lower(), value) for name, value in case.headers} <= set(response.headers.items())
            got = b""
            try:
                for part in response.iter_raw():
                    got += part
            except httpx.RemoteProtocolError:
                assert not case.clean
            else:
                assert case.clean
        assert got == case.body
        (seen,) = served.server.traffic.requests(case.path)
        assert seen.headers.get("last-event-id") == case.request_headers.get("Last-Event-ID")


@pytest.mark.parametrize("name", [name for name in case_names() if body_entries(load_case(name).body)])
def test_a_later_v1_answer_has_the_events_after_the_cursor(name: str) -> None:
    case = load_case(name)
    entries = body_entries(case.body)
    cursor, _ = entries[len(entries) // 2]
    with running_case(case) as served, plain_client(served.url) as client:
        client.get(case.path)
        later = client.get(case.path, headers={"Timeout-Seconds": "1", "Last-Event-ID": str(cursor)}).content
        whole = client.get(case.path, headers={"Timeout-Seconds": "1"}).content
    assert body_entries(later) == [(entry_id, text) for entry_id, text in entries if entry_id > cursor]
    assert whole == re.sub(rb": ping\n\n", b"", case.body)


@pytest.mark.parametrize("name", [name for name in case_names() if body_records(load_case(name).body)])
def test_a_later_v2_answer_has_the_records_after_the_cursor(name: str) -> None:
    case = load_case(name)
    records = body_records(case.body)
    cursor, _ = records[len(records) // 2]
    with running_case(case) as served, plain_client(served.url) as client:
        client.get(case.path)
        headers = {"Timeout-Seconds": "1", "Last-Event-ID": str(cursor)}
        later = client.get(case.path, headers=headers).content
    assert body_records(later) == [(seq_num, draft) for seq_num, draft in records if seq_num > cursor]
    assert later.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("status", ["COMPLETED_SUCCESSFULLY", "EXECUTING"])
def test_the_run_feed_lists_the_key_and_the_status(status: str) -> None:
    case = load_case("v2_b_live_tail")
    with running_case(case, status=status) as served, plain_client(served.url) as client:
        value = client.get(f"/realtime/v1/runs/{case.ref.run_id}?offset=-1").json()[0]["value"]
        assert (value["status"], value["realtimeStreams"]) == (status, '{"x"}')
        assert (value["completedAt"] is None) == (status == "EXECUTING")
        served.store.finish_run(case.ref.run_id, "CANCELED")
        value = client.get(f"/realtime/v1/runs/{case.ref.run_id}?offset=-1").json()[0]["value"]
        assert value["status"] == "CANCELED"


def test_more_can_be_written_after_the_recording() -> None:
    case = load_case("v2_b_live_tail")
    with running_case(case) as served, plain_client(served.url) as client:
        client.get(case.path)
        served.store.append_chunk(*case.ref, '{"n":6}')
        later = client.get(case.path, headers={"Timeout-Seconds": "0", "Last-Event-ID": "5"}).content
    assert [seq_num for seq_num, _ in body_records(later)] == [6]


def test_a_body_can_come_at_the_pace_of_the_recording() -> None:
    case = load_case("v2_b_live_tail")
    with running_case(case, pace=0.1) as served, plain_client(served.url) as client:
        began_s = time.monotonic()
        with client.stream("GET", case.path) as response:
            came = [(part, time.monotonic() - began_s) for part in response.iter_raw()]
    assert b"".join(part for part, _ in came) == case.body
    assert len(came) == len(case.timeline)
    assert came[1][1] >= 0.1
    assert came[-1][1] >= 0.47


def test_a_case_is_values() -> None:
    case = load_case("v1_i_input_stream")
    assert case.ref == StreamRef("run_ap1795324633", "$trigger.input:approval")
    assert (case.wire, case.status, case.clean) == (Wire.V1, 200, True)
    assert case.expected_chunks == ['{"approved":true,"by":"alice"}']
    assert case.expected_texts is None
    assert body_entries(case.body) == [(V1Id(1795324657512, 0), b'"{\\"approved\\":true,\\"by\\":\\"alice\\"}"\n')]
    oddities = load_case("v1_i_sentinel_and_oddities")
    assert (oddities.expected_texts or [])[5] == b'{"n":2}\r'
    split = load_case("v1_c_split_line")
    assert (split.expected_texts or [])[0] == b'{"n":0,"t":"first"}'
    assert not load_case("v1_f_bad_last_event_id").clean
    assert len(load_steps("run_feed_native")["steps"]) == 5
