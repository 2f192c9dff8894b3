"""One mutant per rule of decoders, order and requests: what the code would do if the rule were forgotten or wrong.

Each names the test that has to catch it. The rules are those of protocol §1.7, §2.2 to §2.8, §3 and §5.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tailrace import arguments, room
from tailrace.cli import columns
from tailrace.config import unknown
from tailrace.errors import RequestRefused, SourceUnavailable, TransientError
from tailrace.hold import Hold
from tailrace.ingest import assembly, completeness, late, reader, v1_order, v2_order
from tailrace.ingest.assembly import Assembly
from tailrace.ingest.completeness import Completeness
from tailrace.ingest.ending import Claim
from tailrace.ingest.reader import Reader
from tailrace.ingest.v1_order import V1Order
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Arrival, Batch, HoleReason, Outcome, StreamState, V1Record, Verdict, Wire
from tailrace.retry import Patience
from tailrace.room import PROGRESS_BYTES, Room, Share
from tailrace.service import reach, sharing, telling, watch_list
from tailrace.service.reach import Reach
from tailrace.service.sharing import Sharing
from tailrace.service.watch_list import Kept, WatchList
from tailrace.source import body
from tailrace.source.body import BodyText
from tailrace.source.connection import Tail
from tailrace.tasks import envelope, refused
from tailrace.tasks.checked import CheckedTask
from tailrace.telemetry import Failing
from tailrace.wire import events, feed, run_fields, statuses, v1, v2
from tailrace.wire.chunk_json import PLAIN
from tailrace.wire.envelope import Envelope
from tailrace.wire.events import Framer
from tailrace.wire.feed import FeedRows
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder
from tests import foreignmessages, optioncases
from tests.unit import test_arguments, test_hold, test_retry, test_room, test_telemetry
from tests.unit.cli import test_status_lines
from tests.unit.config import test_unknown
from tests.unit.ingest import (
    test_completeness_of_v1,
    test_ingest_reader,
    test_late,
    test_v1_order,
    test_v1_schedules,
    test_v2_order,
)
from tests.unit.service import test_reach, test_sharing, test_telling, test_watch_list, test_watch_turns
from tests.unit.source import test_body, test_room_of_readers
from tests.unit.streams import test_streams_follow
from tests.unit.tasks import test_checked_tasks, test_envelope
from tests.unit.wire import test_events, test_feed, test_v1, test_v2

Patch = pytest.MonkeyPatch
A, B, C = test_v1_order.A, test_v1_order.B, test_v1_order.C
data = test_v2_order.data


@dataclass(frozen=True)
class Mutant:
    """A wrong rule, and the test that catches it with these arguments."""

    name: str
    apply: Callable[[Patch], None]
    test: Callable[..., None]
    arguments: tuple[Any, ...] = ()


def put(target: Any, name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(target, name, value)


# --- framing and the body


def cut_at_separators(patch: Patch) -> None:
    feed_text = Framer.feed
    patch.setattr(Framer, "feed", lambda self, text: feed_text(self, text.replace("\u2028", "\n")))


def cut_at_cr(patch: Patch) -> None:
    feed_text = Framer.feed
    patch.setattr(Framer, "feed", lambda self, text: feed_text(self, text.replace("\r", "\n")))


def no_limit(patch: Patch) -> None:
    patch.setattr(Framer, "__init__", lambda self, max_chars, init=Framer.__init__: init(self, 1 << 40))


def replace_bad_bytes(patch: Patch) -> None:
    init = BodyText.__init__

    def lossy(self: BodyText, response: Any) -> None:
        init(self, response)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    patch.setattr(BodyText, "__init__", lossy)


FRAMING = [
    Mutant("lines end at U+2028", cut_at_separators, test_events.test_only_a_line_feed_ends_a_line, ("\u2028", 0)),
    Mutant("lines end at CR", cut_at_cr, test_events.test_only_a_line_feed_ends_a_line, ("\r", 0)),
    Mutant(
        "events have no limit",
        no_limit,
        test_events.test_an_event_beyond_the_limit_is_its_head_and_the_stream_goes_on,
        (0,),
    ),
    Mutant(
        "bytes that are not UTF-8 are replaced", replace_bad_bytes, test_v1.test_bytes_that_are_not_utf8_come_through
    ),
    Mutant(
        "a cut gzip body is an end",
        put(BodyText, "finish", lambda self: None),
        test_body.test_a_compressed_body_cut_anywhere_is_no_clean_end,
        (40,),
    ),
    Mutant(
        "a body is decompressed in one go",
        put(body, "STEP_BYTES", 1 << 31),
        test_body.test_a_bomb_does_not_fill_the_memory,
    ),
]

# --- v1


def one_id_back(self: V1Order) -> str | None:
    self._overlap, self._again = bool(self._ids), 0
    return "{}-{}".format(*self._ids[-2]) if len(self._ids) > 1 else None


def last_id(self: V1Order) -> str | None:
    self._overlap, self._again = bool(self._ids), 0
    return "{}-{}".format(*self._ids[-1]) if self._ids else None


def skip_by_id(self: V1Order, this: tuple[int, int], *_: Any) -> bool:
    return this <= self._ids[-1]


def skip_by_text_order(self: V1Order, this: tuple[int, int], *_: Any) -> bool:
    return "{}-{}".format(*this) <= "{}-{}".format(*self._ids[-1])


def without(drop: Callable[[Batch], bool]) -> Callable[[Patch], None]:
    """Admit nothing of what ``drop`` names, chunk by chunk."""

    def apply(patch: Patch) -> None:
        admit = V1Order.admit

        def admit_some(self: V1Order, records: list[V1Record]) -> Batch:
            batch = admit(self, records)
            kept = [n for n in range(len(batch.texts)) if not drop(replace_texts(batch, n))]
            batch.indices, batch.texts = [batch.indices[n] for n in kept], [batch.texts[n] for n in kept]
            return batch

        patch.setattr(V1Order, "admit", admit_some)

    return apply


def replace_texts(batch: Batch, upto: int) -> Batch:
    return replace(batch, texts=batch.texts[: upto + 1])


def is_false(batch: Batch) -> bool:
    try:
        return not json.loads(batch.texts[-1])
    except ValueError:
        return False


def is_repeated(batch: Batch) -> bool:
    return batch.texts[-1] in batch.texts[:-1]


def no_gap(self: V1Order, this: tuple[int, int], raw: bytes, batch: Batch, index: int) -> bool:
    found: bool = seen_before(self, this, raw, Batch(batch.checkpoint), index)
    return found


seen_before = V1Order._seen_before


def proven_by_what_came_back(patch: Patch) -> None:
    saw = Completeness.saw
    patch.setattr(Completeness, "saw", lambda self, *seen, anchored: saw(self, *seen, anchored=True))


def keep_phantoms(patch: Patch) -> None:
    decode = V1Decoder.decode

    def decoded(self: V1Decoder, events: list[Any]) -> Iterator[Arrival]:
        phantoms = [V1Record(0, 0, "") for event in events if not event.data]
        for arrival in decode(self, events):
            yield arrival._replace(records=arrival.records + phantoms)

    patch.setattr(V1Decoder, "decode", decoded)


V1 = [
    Mutant(
        "cursor: one id back",
        put(V1Order, "resume", one_id_back),
        test_v1_order.test_a_connection_begins_two_distinct_ids_back,
        ([A, B, C], "5-0"),
    ),
    Mutant(
        "cursor: the last id",
        put(V1Order, "resume", last_id),
        test_v1_order.test_a_connection_begins_two_distinct_ids_back,
        ([A], None),
    ),
    Mutant(
        "skip: by id alone",
        put(V1Order, "_seen_before", skip_by_id),
        test_v1_order.test_what_is_held_is_skipped_by_id_and_ordinal,
    ),
    Mutant(
        "skip: ids as text",
        put(V1Order, "_seen_before", skip_by_text_order),
        test_v1_order.test_ids_are_compared_as_numbers,
    ),
    Mutant(
        "ids: milliseconds alone",
        put(v1, "parse_id", lambda text, parse=v1.parse_id: (parse(text)[0], 0)),
        test_v1.test_events_become_records,
        ("id: 5-0\ndata: 0\n\nid: 5-1\ndata: 1\n\n", [V1Record(5, 0, "0"), V1Record(5, 1, "1")]),
    ),
    Mutant("content: equal lines are one", without(is_repeated), test_v1_order.test_equal_lines_are_no_repeats),
    Mutant("truthiness: what is false is nothing", without(is_false), test_v1_order.test_what_is_false_is_a_chunk),
    Mutant(
        "gap: none",
        put(V1Order, "_seen_before", no_gap),
        test_v1_order.test_a_newest_line_that_does_not_come_back_is_a_gap_of_unknown_size,
    ),
    Mutant(
        "gap: before whatever comes instead of the newest line",
        put(V1Order, "_tells_of_a_loss", lambda self, this, raw: True),
        test_v1_order.test_a_line_that_follows_by_its_number_tells_of_no_gap,
        ('{"n":4}',),
    ),
    Mutant(
        "gap: none before a line that follows by its number, be it the rest of one",
        put(v1_order, "check", lambda chunk: PLAIN),
        test_v1_order.test_a_line_that_does_not_follow_or_is_the_rest_of_one_tells_of_a_gap,
        (V1Record(6, 1, '"n":4}'),),
    ),
    Mutant(
        "doubt: none where the newest line was gone",
        put(Completeness, "add", lambda self, doubt: None),
        test_v1_schedules.test_no_gap_is_told_before_what_follows_and_nothing_is_lost_in_silence,
    ),
    Mutant(
        "completeness: a line from upstream's future was seen being written",
        put(Completeness, "watched", lambda self, written_ms: self._opened_ms < written_ms),
        test_v1_order.test_a_line_that_was_written_while_we_were_connected_tells_of_no_gap,
        (60_000, test_v1_order.GAP),
    ),
    Mutant(
        "repeats: a step back within a connection is news",
        put(V1Order, "_step_back", lambda self, records: None),
        test_v1_order.test_a_batch_that_comes_again_within_a_connection_is_no_news,
        (2,),
    ),
    Mutant(
        "phantom: a ping is a chunk",
        keep_phantoms,
        test_v1.test_events_become_records,
        (": ping\n\nid: 5-0\ndata: 1\n\n: ping\n\n", [V1Record(5, 0, "1")]),
    ),
    Mutant(
        "doubt: whatever is there is all there was",
        put(completeness, "KEPT_ENTRIES", 1 << 40),
        test_completeness_of_v1.test_many_entries_at_the_first_visit_are_a_doubt,
        (2_500, True),
    ),
    Mutant(
        "doubt: what came back proves all that follows",
        proven_by_what_came_back,
        test_completeness_of_v1.test_what_follows_in_a_later_piece_is_not_proven_by_a_line_that_came_back,
    ),
    Mutant(
        "completeness: the date of an answer is never older than the answer",
        put(Completeness, "_correct", lambda self, written_ms: None),
        test_completeness_of_v1.test_a_date_that_is_older_than_its_answer_proves_nothing,
        (5_000,),
    ),
    Mutant(
        "doubt: an old stream is whole",
        put(completeness, "FORGOTTEN_MS", 1 << 60),
        test_completeness_of_v1.test_a_first_visit_a_day_late_is_a_doubt,
        (test_completeness_of_v1.NOW - 90_000_000, True, 0),
    ),
    Mutant(
        "completeness: no time passes while we read",
        put(Completeness, "passed", lambda self, ms: None),
        test_completeness_of_v1.test_what_is_written_while_we_read_is_no_doubt,
    ),
]

# --- v2


def composite(self: V2Order) -> str | None:
    return f"{self._next - 1},1,1" if self._next else None


def minus_one(self: V2Order) -> str | None:
    return str(self._next - 1)


def data_only(patch: Patch) -> None:
    admit = V2Order.admit
    patch.setattr(
        V2Order, "admit", lambda self, records: admit(self, [each for each in records if each.kind == "data"])
    )


def no_holes(patch: Patch) -> None:
    admit = V2Order.admit

    def admitted(self: V2Order, records: list[Any]) -> Batch:
        batch = admit(self, records)
        batch.holes = [hole for hole in batch.holes if not hole.reason.lost]
        return batch

    patch.setattr(V2Order, "admit", admitted)


def believe_at_once(patch: Patch) -> None:
    """Whatever contradicts what is held is a new stream."""
    patch.setattr(V2Order, "_begin_doubt", lambda self, why: setattr(self, "recreated", True))


def any_record_proves(patch: Patch) -> None:
    """At the start of a stream, another record anywhere is enough, not only the first."""
    is_no_news = V2Order._is_no_news

    def believing(self: V2Order, record: Any, expected: int) -> bool:
        self._believing = True
        return is_no_news(self, record, expected)

    patch.setattr(V2Order, "_is_no_news", believing)


def tails_prove(self: V2Order, tail: int) -> None:
    """A tail behind us is believed whatever the same connection has shown."""
    self._tail = tail
    if tail < self._next:
        self._begin_doubt("behind")


def old_tails_are_nothing(self: V2Order, tail: int) -> None:
    self._tail = tail


def patience_without(name: str, value: float) -> Callable[[Patch], None]:
    is_over = Patience.is_over
    return lambda patch: patch.setattr(
        Patience, "is_over", lambda self, attempts, for_s: is_over(replace(self, **{name: value}), attempts, for_s)
    )


def forget_records(patch: Patch) -> None:
    init = V2Order.__init__
    patch.setattr(V2Order, "__init__", lambda self, checkpoint, recent, *_: init(self, checkpoint, []))


def id_alone(patch: Patch) -> None:
    patch.setattr(v2_order, "fingerprint_of", lambda text, body_id: body_id.encode())
    patch.setattr(v2_order, "fingerprints_of", lambda texts, ids: [each.encode() for each in ids])


def text_alone(patch: Patch) -> None:
    patch.setattr(v2_order, "fingerprint_of", lambda text, body_id: text)
    patch.setattr(v2_order, "fingerprints_of", lambda texts, ids: list(texts))


def skip_events(name: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        decode = V2Decoder.decode
        patch.setattr(
            V2Decoder, "decode", lambda self, events: decode(self, [each for each in events if each.event != name])
        )

    return apply


def any_body(patch: Patch) -> None:
    patch.setattr(v2, "envelope", lambda body: Envelope(body.encode() or b"null", ""))
    patch.setattr(v2, "envelopes", lambda bodies: None)
    patch.setattr(v2, "plain_envelopes", lambda bodies: None)


V2 = [
    Mutant(
        "cursor: the event's id",
        put(V2Order, "resume", composite),
        test_v2_order.test_a_connection_begins_at_the_last_record_that_is_held,
        ([data(0), data(1)], "0"),
    ),
    Mutant(
        "cursor: -1 is the beginning",
        put(V2Order, "resume", minus_one),
        test_v2_order.test_a_connection_begins_at_the_last_record_that_is_held,
        ([], None),
    ),
    Mutant("cursor: data records only", data_only, test_v2_order.test_every_record_moves_the_place),
    Mutant("gap: none", no_holes, test_v2_order.test_a_jump_that_three_connections_show_is_a_gap, ([], 5, (0, 4))),
    Mutant(
        "tail: not looked at",
        put(V2Order, "see_tail", lambda self, tail: None),
        test_v2_order.test_a_tail_behind_us_and_another_first_record_are_another_stream,
        ([data(0, ms=9)],),
    ),
    Mutant(
        "made anew: one contradiction is enough",
        believe_at_once,
        test_v2_order.test_a_tail_behind_us_and_another_first_record_are_another_stream,
        ([data(0, ms=9)],),
    ),
    Mutant(
        "made anew: any other record proves it",
        any_record_proves,
        test_v2_order.test_what_begins_as_ours_and_goes_on_as_another_is_another_only_in_the_end,
    ),
    Mutant(
        "made anew: an old tail after our records",
        put(V2Order, "see_tail", tails_prove),
        test_v2_order.test_an_old_tail_after_our_records_is_settled_by_the_next_connection,
    ),
    Mutant(
        "made anew: a tail behind us after our records is nothing",
        put(V2Order, "see_tail", old_tails_are_nothing),
        test_v2_order.test_a_stream_made_anew_under_a_connection_does_not_go_on_with_the_old_one,
    ),
    Mutant(
        "made anew: again and again at once",
        put(reader, "generation_wait_s", lambda generation: 0.0),
        test_ingest_reader.test_a_stream_that_is_made_anew_again_and_again_has_to_wait,
    ),
    Mutant(
        "made anew: not compared with what was before",
        put(v2_order, "_widen", lambda holes, hole: holes.append(hole)),
        test_v2_order.test_a_generation_that_is_the_one_before_is_dropped_as_repeats,
    ),
    Mutant(
        "gap: one connection is enough",
        put(v2_order, "JUMPS_BELIEVED", 1),
        test_v2_order.test_a_jump_that_fewer_connections_show_is_no_gap,
        (2,),
    ),
    Mutant(
        "gap: one end is enough",
        put(v2_order, "JUMPS_BELIEVED", 1),
        test_v2_order.test_what_was_written_while_a_connection_closed_is_no_gap,
    ),
    Mutant(
        "gap: trimmed although its neighbour is there",
        put(V2Order, "_why_missing", lambda self, expected, neighbour: HoleReason.TRIMMED),
        test_v2_order.test_what_stands_between_two_that_came_is_not_trimmed_but_missing,
        (0,),
    ),
    Mutant(
        "given up: by the number of attempts alone",
        patience_without("over_s", 0.0),
        test_ingest_reader.test_when_a_stream_is_given_up,
        (RequestRefused("400"), False, 19, StreamState.FAILED),
    ),
    Mutant(
        "given up: by the time alone",
        patience_without("attempts", 0),
        test_ingest_reader.test_when_a_stream_is_given_up,
        (RequestRefused("400"), True, 18, StreamState.PARKED),
    ),
    Mutant(
        "made anew: our record is any record",
        put(v2_order, "_print", lambda timestamp_ms, body: [0, 0]),
        test_v2_order.test_another_record_where_ours_was_is_a_doubt,
        (data(2, "9"),),
    ),
    Mutant(
        "repeats: no window",
        put(v2_order, "REPEAT_WINDOW", 0),
        test_v2_order.test_a_repeat_is_one_within_5000_records,
        (4_999, True),
    ),
    Mutant(
        "repeats: a window without end",
        put(v2_order, "REPEAT_WINDOW", 1 << 40),
        test_v2_order.test_a_repeat_is_one_within_5000_records,
        (5_001, False),
    ),
    Mutant(
        "repeats: forgotten at a restart",
        forget_records,
        test_v2_order.test_a_long_id_is_one_before_and_after_a_restart,
    ),
    Mutant(
        "repeats: by id alone",
        id_alone,
        test_v2_order.test_an_id_or_a_text_alone_is_no_repeat,
        (data(1, "2", "a"),),
    ),
    Mutant(
        "repeats: by text alone",
        text_alone,
        test_v2_order.test_an_id_or_a_text_alone_is_no_repeat,
        (data(1, "1", "b"),),
    ),
    Mutant(
        "envelope: any body is a chunk",
        any_body,
        test_v2.test_a_body_that_is_no_envelope_is_kept_raw,
        ({"body": "not json"},),
    ),
    Mutant(
        "control: a record like any other",
        put(v2, "_kind", lambda headers: v2.Kind.DATA),
        test_v2.test_commands_and_control_records_say_nothing_but_their_number,
        ([["trigger-control", "turn-complete"]], v2.Kind.CONTROL),
    ),
    Mutant(
        "end: [DONE] is not needed",
        put(V2Decoder, "finish", lambda self: None),
        test_v2.test_an_end_without_done_is_a_fault,
    ),
    Mutant(
        "end: an error event is nothing",
        skip_events("error"),
        test_v2.test_an_error_event_is_a_fault_and_what_came_before_it_counts,
        (test_v2.event("x", "error"),),
    ),
]

# --- what a connection means, for each that reads


def believe_what_is_held(self: Assembly) -> None:
    self._held = None
    self._output.confirm()


def believe_half_lines(self: V1Order, loose: V1Record | None, *, final: bool) -> Batch | None:
    return None if loose is None else self.admit([loose])


def lost_when_not_reached(self: V2Order, loose: None, *, final: bool) -> Batch | None:
    if self._tail is None or self._tail <= self._next:
        return None
    return self._step_over(self._tail - 1, HoleReason.TRIMMED)


def change_silently(self: Assembly, known: Wire, now: Wire) -> None:
    self.wire, self._order = now, None
    self.order.resume()


def read_on(self: Assembly, order: Any) -> None:
    order.recreated = False


def by_the_clock_alone(self: Hold, now: float) -> bool:
    return now >= self.look_at


def everywhere(name: str, apply: Callable[[Patch], None], **users: tuple[Any, ...]) -> list[Mutant]:
    """Return the mutant of a rule once for each that reads by it: ``reader``, ``streams``, ``late`` or another."""
    return [Mutant(f"{name} [{user}]", apply, test, arguments) for user, (test, *arguments) in users.items()]


ASSEMBLY = [
    *everywhere(
        "held: believed when its connection ends",
        put(Assembly, "left", believe_what_is_held),
        reader=(test_ingest_reader.test_a_line_that_came_with_the_end_is_read_again_whole,),
        streams=(test_streams_follow.test_a_line_that_comes_with_the_end_is_withdrawn_and_read_again, "ends"),
    ),
    *everywhere(
        "held: a process that was stopped has waited too",
        put(Hold, "certain", by_the_clock_alone),
        rule=(test_hold.test_a_process_that_was_stopped_must_run_through_a_grace_first,),
        streams=(
            test_streams_follow.test_a_line_that_a_stopped_process_held_is_not_believed_before_it_has_looked_at_the_connection,
        ),
    ),
    *everywhere(
        "loose end: believed the first time",
        put(V1Order, "ended", believe_half_lines),
        order=(test_v1_order.test_a_half_line_is_admitted_when_two_sweeps_end_with_it,),
        reader=(test_ingest_reader.test_a_half_line_is_believed_when_the_next_sweep_ends_with_it_too,),
        streams=(test_streams_follow.test_a_line_that_ends_two_last_reads_alike_is_all_there_will_be,),
    ),
    *everywhere(
        "missing: none at the end",
        put(V2Order, "ended", lambda self, loose, *, final: None),
        reader=(test_ingest_reader.test_what_is_missing_at_the_end_of_v2_is_a_gap,),
        streams=(test_streams_follow.test_what_was_trimmed_below_the_tail_is_a_gap_at_the_end,),
    ),
    *everywhere(
        "missing: what a response did not get to",
        put(V2Order, "ended", lost_when_not_reached),
        order=(test_v2_order.test_what_a_response_did_not_get_to_is_no_gap,),
        reader=(test_ingest_reader.test_nothing_is_told_as_trimmed_when_the_record_before_it_came_back,),
        streams=(test_streams_follow.test_what_a_response_did_not_get_to_comes_with_the_next,),
    ),
    *everywhere(
        "another wire: read on",
        put(Assembly, "_change_wire", change_silently),
        reader=(test_ingest_reader.test_another_wire_is_an_alarm_and_a_new_generation, Wire.V1, Wire.V2),
        streams=(test_streams_follow.test_a_change_of_wire_is_a_new_stream,),
        late=(test_late.test_a_stream_that_speaks_another_wire_has_to_be_read,),
    ),
    *everywhere(
        "made anew: read on",
        put(Assembly, "_renew", read_on),
        reader=(test_ingest_reader.test_a_stream_made_anew_is_read_from_its_start,),
        streams=(test_streams_follow.test_a_recreated_stream_is_read_from_its_beginning,),
    ),
    *everywhere(
        "nothing ever moves",
        put(assembly, "moves", lambda batch: False),
        reader=(test_ingest_reader.test_a_line_that_something_follows_is_stored_at_once,),
        streams=(test_streams_follow.test_the_last_line_is_held_until_something_follows,),
    ),
    *(
        mutant
        for wire, order in ((Wire.V1, V1Order), (Wire.V2, V2Order))
        for mutant in everywhere(
            f"anchor: any sweep proves ({wire})",
            put(order, "anchored", True),
            reader=(test_ingest_reader.test_a_sweep_that_does_not_show_what_we_hold_proves_nothing, wire),
            streams=(
                test_streams_follow.test_a_last_read_that_does_not_show_where_we_are_is_made_again_a_few_times,
                wire,
            ),
        )
    ),
]

# --- the loop, the late check and the feed


def end_is_the_end(*_: Any, **__: Any) -> Outcome:
    return Outcome(StreamState.SEALED, verdict=Verdict.COMPLETE)


def one_sweep_is_enough(end: Any, run_end: Any, claim: Claim, *_: Any, **__: Any) -> Outcome | None:
    return Outcome(StreamState.SEALED, verdict=claim.verdict) if run_end.over else None


def faults_are_ends(patch: Patch) -> None:
    follow = Reader._follow

    def followed(self: Reader, wait_s: int, leave_at: float) -> bool:
        try:
            return follow(self, wait_s, leave_at)
        except (TransientError, SourceUnavailable):
            return True

    patch.setattr(Reader, "_follow", followed)


def whole_rows(patch: Patch) -> None:
    merge = FeedRows.merge

    def replaced(self: FeedRows, message: Any) -> None:
        if "key" in message:
            self._rows.pop(message["key"], None)
        merge(self, message)

    patch.setattr(FeedRows, "merge", replaced)


class Everything:
    def __contains__(self, name: str) -> bool:
        return True


LOOP = [
    Mutant(
        "end: a clean end is one",
        put(reader, "after_clean_end", end_is_the_end),
        test_ingest_reader.test_a_clean_end_of_a_live_run_is_followed_by_the_next_connection,
        (Wire.V1,),
    ),
    Mutant(
        "end: one sweep is enough",
        put(reader, "after_clean_end", one_sweep_is_enough),
        test_ingest_reader.test_the_first_terminal_status_is_not_the_end,
    ),
    Mutant(
        "end: a fault is one",
        faults_are_ends,
        test_ingest_reader.test_a_fault_is_no_end_even_in_the_last_sweep,
        (SourceUnavailable("cut"),),
    ),
    Mutant(
        "verdict: gaps are forgotten",
        put(reader, "claim_of", lambda **_: Claim(Verdict.COMPLETE)),
        test_ingest_reader.test_a_gap_stays_in_the_verdict,
    ),
    Mutant(
        "late check: nothing is ever late",
        put(late._News, "put", lambda self, *rest: None),
        test_late.test_there_is_more_when_something_is_not_held,
        (Wire.V1, [test_late.v1(*test_late.V1_HELD, (2, 0, "4"))], True),
    ),
    Mutant(
        "status: isCompleted's list",
        put(statuses, "TERMINAL", statuses.TERMINAL - {"EXPIRED", "TIMED_OUT"}),
        test_feed.test_a_status_is_mapped_as_upstream_maps_it,
        ("EXPIRED", "EXPIRED", True),
    ),
    Mutant(
        "status: the database's names",
        put(statuses, "API_STATUS", {}),
        test_feed.test_a_status_is_mapped_as_upstream_maps_it,
        ("COMPLETED_SUCCESSFULLY", "COMPLETED", True),
    ),
    Mutant(
        "status: an unknown one is terminal",
        put(statuses, "TERMINAL", Everything()),
        test_feed.test_a_status_nobody_has_heard_of_is_not_terminal,
        ("ARCHIVED",),
    ),
    Mutant("feed: an update is a whole row", whole_rows, test_feed.test_updates_are_merged_into_the_row),
    Mutant(
        "keys: those of old runs are not looked for",
        put(feed, "_keys_of_old_runs", lambda metadata: []),
        test_feed.test_the_keys_are_those_of_the_column_and_of_old_metadata,
        ({"metadata": '{"$$streams":["old"]}'}, ("old",)),
    ),
]

# --- runs


def first_come(alone: Any, limit: int) -> Any:
    return alone[:limit]


def longest_due(alone: Any, limit: int) -> Any:
    return sorted(alone, key=lambda run: run.sought)[:limit]


def each_alone(patch: Patch) -> None:
    due = WatchList.due
    patch.setattr(WatchList, "due", lambda self, now, told_of, limit, busy: due(self, now, (), limit, busy))


def looks_know_all(patch: Patch) -> None:
    take = WatchList.take
    patch.setattr(
        WatchList, "take", lambda self, standing, now, looked_at, heard_at=None: take(self, standing, now, now, now)
    )


def told_is_noted(patch: Patch) -> None:
    told_of = WatchList.told_of

    def spoiled(self: WatchList, run_ids: Any, at: float) -> None:
        self._unnoted.clear()
        told_of(self, run_ids, at)

    patch.setattr(WatchList, "told_of", spoiled)


def left_to_us_is_known(patch: Patch) -> None:
    reconcile = WatchList.reconcile

    def spoiled(self: WatchList, standings: Any, now: float, before: Any) -> None:
        reconcile(self, standings, now, before)
        self._unnoted.clear()

    patch.setattr(WatchList, "reconcile", spoiled)


def rows_know_better(patch: Patch) -> None:
    reconcile = WatchList.reconcile
    patch.setattr(
        WatchList,
        "reconcile",
        lambda self, standings, now, before: reconcile(self, standings, now, self.snapshot()),
    )


def as_if_new(self: WatchList, standings: Any, now: float, before: Any) -> None:
    self.drop(list(self._kept))
    for standing in standings:
        self.take(standing, now, now)


def all_or_none(patch: Patch) -> None:
    read = FeedRows.read

    def spoiled(self: FeedRows) -> Any:
        runs, bad = read(self)
        return ([] if bad else runs), bad

    patch.setattr(FeedRows, "read", spoiled)


RUNS = [
    Mutant(
        "rows: an answer adds to those before, also a whole one",
        put(FeedRows, "_drop", lambda self, key: None),
        test_feed.test_a_whole_answer_is_all_that_there_is,
    ),
    Mutant(
        "rows: what is over is kept whoever wants it",
        put(FeedRows, "changes", FeedRows.read),
        test_feed.test_of_runs_that_are_over_those_are_kept_that_somebody_wants,
    ),
    Mutant(
        "share: whoever asks first takes all",
        put(Sharing, "may_take", lambda self, free, balance: free),
        test_sharing.test_all_have_their_share_after_the_first_turn,
        ((1_000, 1_000, 1_000),),
    ),
    Mutant(
        "share: nothing is given up",
        put(Sharing, "gives_up", lambda self, free, balance: 0),
        test_sharing.test_one_that_comes_has_its_share_within_a_minute_and_each_stream_moves_once_at_most,
    ),
    Mutant(
        "share: it is given up again and again, wanted or not",
        put(sharing, "REST_TURNS", 0),
        test_sharing.test_what_one_that_hangs_does_not_take_is_read_by_the_others_and_nothing_is_given_up_for_it,
    ),
    Mutant(
        "reach: one stream's trouble is upstream's",
        put(reach, "MANY", 1),
        test_reach.test_one_stream_that_can_not_be_read_is_no_outage,
    ),
    Mutant(
        "reach: all look at once",
        put(Reach, "_takes_turn", lambda self: True),
        test_reach.test_one_that_does_not_wait_takes_its_turn_among_them,
    ),
    Mutant(
        "rows: one that is wrong spoils the answer",
        all_or_none,
        test_feed.test_a_row_that_is_wrong_is_told_and_keeps_no_other_from_being_read,
        ("createdAt", "yesterday"),
    ),
    Mutant(
        "rows: a lost update changes nothing",
        put(FeedRows, "_forget_row", lambda self, message: None),
        test_feed.test_a_row_whose_update_is_lost_is_looked_for_elsewhere,
    ),
    Mutant(
        "rows: any tag is stored",
        put(run_fields, "KEY_MAX_BYTES", 1 << 40),
        test_feed.test_a_tag_that_no_index_takes_is_left_out,
        ("x" * 2_001,),
    ),
    Mutant(
        "watching: each run is looked at alone at each interval",
        put(watch_list, "ALONE_PER_S", 1e9),
        test_watch_list.test_many_share_a_budget,
    ),
    Mutant(
        "watching: also those that the feed tells of",
        each_alone,
        test_watch_list.test_what_the_feed_tells_of_is_not_looked_at_alone_and_does_not_count,
    ),
    Mutant(
        "watching: a run's end is looked at when its turn comes",
        put(Kept, "due_at", lambda self, every_s: self.looked_at + every_s),
        test_watch_list.test_a_run_that_is_over_is_looked_at_when_its_keys_have_settled_however_many_there_are,
    ),
    Mutant(
        "watching: only news from the feed counts",
        put(WatchList, "from_the_feed", lambda self, now, told_of: set()),
        test_watch_list.test_the_feeds_word_counts_also_when_it_is_no_news,
    ),
    Mutant(
        "watching: what the feed says is noted at once or never",
        put(WatchList, "heard", lambda self, run_ids, at: None),
        test_watch_list.test_what_the_feed_says_once_is_to_be_noted_until_it_is,
    ),
    Mutant(
        "watching: a look knows all that the feed has said",
        looks_know_all,
        test_watch_list.test_what_the_feed_says_once_is_to_be_noted_until_it_is,
    ),
    Mutant(
        "watching: what the feed has told of is noted",
        told_is_noted,
        test_watch_list.test_what_is_not_noted_yet_was_not_read,
    ),
    Mutant(
        "watching: what was left to us is news from then on",
        left_to_us_is_known,
        test_watch_list.test_of_what_was_left_to_us_just_now_all_counts_that_the_feed_has_said,
    ),
    Mutant(
        "watching: what the rows said is newer than what was noted meanwhile",
        rows_know_better,
        test_watch_list.test_what_was_noted_while_the_rows_were_asked_is_newer_than_their_answer,
    ),
    Mutant(
        "watching: what a new watcher finds was looked at when it began",
        put(WatchList, "reconcile", as_if_new),
        test_watch_list.test_what_the_rows_say_is_kept_and_nothing_else,
    ),
    Mutant(
        "turns: wrong ids before what is there",
        put(watch_list, "turns", first_come),
        test_watch_turns.test_what_was_looked_for_in_vain_comes_after_what_is_new_or_known,
    ),
    Mutant(
        "turns: a new run behind all that came before",
        put(watch_list, "turns", longest_due),
        test_watch_turns.test_who_asked_last_does_not_wait_behind_all_who_came_before,
    ),
    Mutant(
        "turns: wrong ids never",
        put(watch_list, "turns", longest_due),
        test_watch_turns.test_what_was_looked_for_in_vain_keeps_a_fifth_of_the_places,
    ),
    Mutant(
        "refusal: many in one bad minute are believed",
        patience_without("over_s", 0.0),
        test_retry.test_a_refusal_is_believed_when_there_were_many_over_a_long_time,
    ),
    Mutant(
        "refusal: two that lie far apart are believed",
        patience_without("attempts", 2),
        test_retry.test_a_refusal_is_believed_when_there_were_many_over_a_long_time,
    ),
]


# --- what may be held


def everybody_over(self: Room, share: Share, more_bytes: int) -> bool:
    return self.held_bytes <= self.max_bytes


def nobody_over(self: Room, share: Share, more_bytes: int) -> bool:
    return self.unfinished_bytes + more_bytes <= self.max_bytes // 2 and self.held_bytes + more_bytes <= self.max_bytes


def whoever_fits_first(self: Room, share: Share, size_bytes: int) -> bool:
    if self._fits(share, size_bytes):
        self._move(share, size_bytes)
        return True
    self._storing[share] = size_bytes
    return False


def forget_what_is_kept(patch: Patch) -> None:
    resize = Share.resize
    patch.setattr(Share, "resize", lambda self, size_bytes, kept_bytes=0: resize(self, size_bytes))


def in_the_queue_like_others(self: Room, share: Share, size_bytes: int) -> bool:
    self._storing[share] = size_bytes
    self._serve()
    return share not in self._storing


ROOM = [
    Mutant("room: small events are counted", put(room, "FREE_BYTES", 0), test_room.test_small_events_are_not_counted),
    Mutant(
        "room: everybody goes beyond",
        put(Room, "_may_grow", everybody_over),
        test_room.test_one_at_a_time_goes_beyond_and_the_next_when_all_is_within_again,
    ),
    Mutant(
        "room: nobody goes beyond",
        put(Room, "_may_grow", nobody_over),
        test_room.test_many_that_hold_a_part_and_wait_all_come_to_an_end,
    ),
    Mutant(
        "room: unfinished events may take all",
        put(Room, "_for_whole", lambda self: self.max_bytes - self.unfinished_bytes),
        test_room.test_unfinished_events_leave_half_to_the_writer,
    ),
    Mutant(
        "room: whoever fits goes first",
        put(Room, "store", whoever_fits_first),
        test_room.test_what_is_larger_than_the_bound_is_stored_in_its_turn_while_others_are_live,
    ),
    Mutant(
        "room: a whole event waits like others",
        put(Room, "store", in_the_queue_like_others),
        test_room.test_one_that_is_whole_goes_to_the_writer_with_the_room_that_it_has,
    ),
    Mutant(
        "room: who brings nothing stays",
        put(Room, "cut_idle", lambda self: None),
        test_room.test_who_is_let_over_and_brings_nothing_is_cut_while_others_wait,
        (0, True),
    ),
    Mutant(
        "room: who brings something is cut",
        put(room, "PROGRESS_BYTES", 1 << 40),
        test_room.test_who_is_let_over_and_brings_nothing_is_cut_while_others_wait,
        (PROGRESS_BYTES, False),
    ),
    Mutant(
        "room: a last line is not counted",
        forget_what_is_kept,
        test_room_of_readers.test_a_last_line_is_counted_while_nothing_follows_it,
    ),
    Mutant(
        "room: a cut is a clean end",
        put(Tail, "_refuse_cut", lambda self: None),
        test_room_of_readers.test_a_connection_that_is_cut_for_room_is_no_clean_end,
    ),
    Mutant(
        "room: a character is a byte",
        put(events, "getsizeof", len),
        test_room_of_readers.test_text_that_takes_four_bytes_a_character_is_counted_with_four,
    ),
    Mutant(
        "events: the limit is one of characters",
        put(events, "_utf8_bytes", len),
        test_events.test_the_limit_is_one_of_bytes_not_of_characters,
        (0,),
    ),
]

# --- what is asked for


class AnyName(dict[str, arguments.Range]):
    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> arguments.Range:
        return arguments.Range(0, 1 << 62, "")


ASKED = [
    Mutant(
        "options: a boolean is a number",
        put(arguments, "_is_whole", lambda value: isinstance(value, int)),
        test_arguments.test_options_are_refused_by_name_type_and_range,
        ('{"batch_max_chunks": true}', optioncases.CHUNKS),
    ),
    Mutant(
        "options: any name is one",
        put(arguments, "BATCH_LIMITS", AnyName()),
        test_arguments.test_options_are_refused_by_name_type_and_range,
        ('{"": 5}', "there is no option ''"),
    ),
    Mutant(
        "settings: the nearest name is near",
        put(unknown, "NEAR", 0.0),
        test_unknown.test_the_nearest_setting_is_named,
        ("TAILRACE_UNLIKE_ANY_OTHER", None),
    ),
    Mutant(
        "names: of any length",
        put(arguments, "LONGEST_NAME_BYTES", 1 << 40),
        test_arguments.test_what_cannot_be_meant_is_refused_by_its_name,
        ({"run_id": "ü" * 501}, "run_id"),
    ),
    Mutant(
        "tasks: the worker will see",
        put(CheckedTask, "apply_async", lambda *_, **__: None),
        test_checked_tasks.test_the_caller_learns_what_is_wrong,
        test_checked_tasks.CALLS[0],
    ),
    Mutant(
        "messages: an id of any kind",
        put(envelope, "_is_id", lambda value: True),
        test_envelope.test_a_shape_that_nobody_can_read_is_seen,
        ("headers", foreignmessages.with_header(id=None)),
    ),
    Mutant(
        "messages: any time is one",
        put(envelope, "_is_moment", lambda text: True),
        test_envelope.test_a_shape_that_nobody_can_read_is_seen,
        ("headers", foreignmessages.with_header(eta="9999-12-31T23:59:59-14:00")),
    ),
    Mutant(
        "messages: a reason in the words of an error",
        put(refused, "BadArgument", Exception),
        test_envelope.test_a_reason_repeats_nothing_of_an_error_that_is_not_ours,
    ),
]


# --- what is told


def never_calm(patch: Patch) -> None:
    init = Failing.__init__
    patch.setattr(Failing, "__init__", lambda self, what, **more: init(self, what, **more | {"calm_s": 0.0}))


LOGS = [
    Mutant(
        "logs: one success ends a trouble",
        never_calm,
        test_telemetry.test_work_that_fails_every_other_time_is_told_once,
    ),
    Mutant(
        "logs: each lease is told",
        put(telling, "began", lambda bound, stream: bound.info("lease_acquired", position=-1)),
        test_telling.test_a_stream_that_comes_round_again_is_told_of_once,
        (StreamState.PARKED,),
    ),
    Mutant(
        "status: names that are cut alike are one",
        put(columns, "_cut_names", lambda names, width: [columns.cut_middle(name, width) for name in names]),
        test_status_lines.test_streams_with_long_names_are_one_line_each_and_are_told_apart,
    ),
]

MUTANTS = [*FRAMING, *V1, *V2, *ASSEMBLY, *LOOP, *ROOM, *RUNS, *ASKED, *LOGS]
