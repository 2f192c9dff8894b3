"""A store that is written to while it is read: what tests and demonstrations drive. Thread-safe; readers wake at once.

A writer here does to a stream what upstream's own parts do: the v1 writer and Redis (entries, rough trimming, expiry),
the v2 writer and S2 (records, commands, trimming, deletion).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tailrace.model import Wire
from tailrace.serve.entries import Entry, V1Id
from tailrace.serve.logs import EntryLog, RecordLog
from tailrace.serve.records import Draft, Record, Tail, data_draft
from tailrace.serve.runs import FoundRuns, Run, RunQuery, find_runs
from tailrace.serve.store import INPUT_PREFIX, NoSuchStream, Page, StreamRemoved
from tests.upstream.drafts import trim_draft
from tests.upstream.notifier import Notifier

_NANOID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"


class LiveStore:
    """Runs and streams in memory.

    A stream comes into being with its first write, or when it is opened; then its key is listed, except an input
    stream's. Every method that names a run raises KeyError when there is none; `append_entries` and `append_records`
    raise ValueError on a run of the other wire.
    """

    def __init__(
        self,
        *,
        v1_max_entries: int | None = 1000,
        create_on_read: bool = True,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Upstream's defaults: v1 keeps about 1000 entries (None: all), and reading creates a missing v2 stream."""
        self._guard = threading.RLock()
        self._v1_max_entries = v1_max_entries
        self._create_on_read = create_on_read
        self._now_ms = now_ms
        self._runs: dict[str, Run] = {}
        self._run_bells: dict[str, Notifier] = {}
        self._runs_bell = Notifier()
        self._v1: dict[tuple[str, str], _LiveV1] = {}
        self._v2: dict[tuple[str, str], _LiveV2] = {}
        self._ids = random.Random(0)

    # Runs

    def create_run(
        self,
        run_id: str,
        wire: Wire = Wire.V2,
        *,
        status: str = "EXECUTING",
        task_identifier: str = "demo-task",
        tags: Sequence[str] = (),
        metadata: str | None = None,
        created_at: datetime | None = None,
        row_id: str = "",
    ) -> None:
        """Trigger a run. ``status`` is a database name. Raises ValueError when the run exists."""
        created = self._now() if created_at is None else created_at
        started = None if status in ("PENDING", "DELAYED") else created
        run = Run(
            run_id, wire, status, task_identifier, created, created, started, None, tuple(tags), (), metadata, row_id
        )
        with self._guard:
            if run_id in self._runs:
                raise ValueError(f"run {run_id} exists")
            self._runs[run_id] = run
            self._run_bells.setdefault(run_id, Notifier())
        self._runs_bell.ring()

    def set_status(self, run_id: str, status: str) -> None:
        """Only the status: a cancelled run is CANCELED long before it has an end."""
        self._change_run(run_id, lambda run: replace(run, status=status))

    def finish_run(
        self,
        run_id: str,
        status: str = "COMPLETED_SUCCESSFULLY",
        *,
        finished_at: datetime | None = None,
    ) -> None:
        """The status and the end of the run, which is now if it is not given."""
        moment = finished_at or self._now()
        self._change_run(run_id, lambda run: replace(run, status=status, finished_at=moment))

    def set_stream_keys(self, run_id: str, keys: Iterable[str]) -> None:
        """The listed keys, whatever streams there are. A key can be there twice, as upstream's race leaves it."""
        listed = tuple(keys)
        self._change_run(run_id, lambda run: replace(run, stream_keys=listed))

    def delete_run(self, run_id: str) -> None:
        """Forget a run. Its streams stay, unreachable, and are there again when the run is created anew."""
        with self._guard:
            del self._runs[run_id]
        self._run_bells[run_id].ring()

    # Streams of both wires

    def open_stream(self, run_id: str, key: str) -> None:
        """What a writer does first: the key is listed before anything is in the stream."""
        with self._guard:
            run = self._runs[run_id]
            if run.wire is Wire.V1:
                self._v1_of(run_id, key)
            else:
                self._v2_of(run_id, key)
            if key in run.stream_keys or key.startswith(INPUT_PREFIX):
                return
            self._change_run(run_id, lambda run: replace(run, stream_keys=(*run.stream_keys, key)))

    def append_chunk(self, run_id: str, key: str, text: str | bytes) -> None:
        """One chunk, given as JSON text, in the way a stream writer stores it on the run's wire."""
        self.append_chunks(run_id, key, [text])

    def append_chunks(self, run_id: str, key: str, texts: Iterable[str | bytes]) -> None:
        """Chunks that arrive together."""
        with self._guard:
            wire = self._runs[run_id].wire
            if wire is Wire.V1:
                self.append_entries(run_id, key, [_bytes(text) + b"\n" for text in texts])
            else:
                self.append_records(run_id, key, [data_draft(text, self._nanoid()) for text in texts])

    def expire_stream(self, run_id: str, key: str) -> None:
        """Age takes everything: a v1 key is gone as if it had never been, a v2 stream is empty and keeps its tail."""
        with self._guard:
            if self._runs[run_id].wire is Wire.V1:
                self._v1_of(run_id, key).log.clear()
            else:
                log = self._v2_of(run_id, key).log
                log.trim(log.tail.seq_num)

    def delete_stream(self, run_id: str, key: str) -> None:
        """Remove the stream; who reads it on v2 gets an error event. The key stays listed."""
        with self._guard:
            if self._runs[run_id].wire is Wire.V1:
                self._v1_of(run_id, key).log.clear()
                return
            stream = self._v2.pop((run_id, key), None)
            if stream is None:
                return
            stream.removed = True
        stream.notifier.ring()

    def recreate_stream(self, run_id: str, key: str) -> None:
        """Remove the stream and open it again: v2 numbers start at 0."""
        with self._guard:
            self.delete_stream(run_id, key)
            self.open_stream(run_id, key)

    # v1

    def append_entry(self, run_id: str, key: str, data: str | bytes, entry_id: V1Id | str | None = None) -> V1Id:
        """One entry, as Redis keeps it: any piece of text, LF included where there is one. Returns its id.

        Without ``entry_id`` the id is the clock's. Raises ValueError for one that is not greater than the last.
        """
        return self._append_entries(run_id, key, [(data, entry_id)])[0]

    def append_entries(self, run_id: str, key: str, pieces: Iterable[str | bytes]) -> list[V1Id]:
        """Entries that arrive together, with the clock's ids."""
        return self._append_entries(run_id, key, [(piece, None) for piece in pieces])

    def trim_entries(self, run_id: str, key: str, max_entries: int) -> None:
        """``XTRIM MAXLEN ~``: whole nodes of 100 entries go, as long as ``max_entries`` are left."""
        with self._guard:
            self._v1_of(run_id, key).log.trim(max_entries)

    def entries(self, run_id: str, key: str) -> list[Entry]:
        """What is kept."""
        with self._guard:
            return self._v1_of(run_id, key).log.entries

    # v2

    def append_records(self, run_id: str, key: str, drafts: Iterable[Draft]) -> list[Record]:
        """Records that arrive together. Returns them as stored."""
        with self._guard:
            self._expect(run_id, Wire.V2)
            self.open_stream(run_id, key)
            stream = self._v2_of(run_id, key)
            now_ms = self._now_ms()
            records = [stream.log.append(draft, now_ms) for draft in drafts]
        stream.notifier.ring()
        return records

    def repeat_record(self, run_id: str, key: str, seq_num: int) -> Record:
        """A writer's retry: the same record again, under a new number. Raises LookupError when it is not kept."""
        with self._guard:
            found = [record for record in self._v2_of(run_id, key).log.records if record.seq_num == seq_num]
            if not found:
                raise LookupError(f"record {seq_num} is not kept")
            return self.append_records(run_id, key, [Draft(found[0].body, found[0].headers)])[0]

    def append_trim(self, run_id: str, key: str, first_kept: int) -> Record:
        """The command that drops what is before ``first_kept``, carried out at once."""
        with self._guard:
            record = self.append_records(run_id, key, [trim_draft(first_kept)])[0]
            self.trim_records(run_id, key, first_kept)
            return record

    def trim_records(self, run_id: str, key: str, first_kept: int) -> None:
        """What retention does: drop what is before ``first_kept``, without a command."""
        with self._guard:
            self._v2_of(run_id, key).log.trim(first_kept)

    def records(self, run_id: str, key: str) -> list[Record]:
        """What is kept."""
        with self._guard:
            return self._v2_of(run_id, key).log.records

    # The Store protocol

    async def run(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    async def run_changed(self, run_id: str, since: datetime, block_s: float) -> Run | None:
        def look() -> Run | None:
            run = self._runs.get(run_id)
            return run if run and run.updated_at > since else None

        return await self._run_bells[run_id].until(look, block_s)

    async def runs(self, query: RunQuery) -> FoundRuns:
        with self._guard:
            runs = list(self._runs.values())
        return find_runs(runs, query)

    async def runs_changed(self, since: datetime, block_s: float) -> Sequence[Run]:
        with self._guard:
            known = {run_id: run.updated_at for run_id, run in self._runs.items()}

        def look() -> list[Run]:
            with self._guard:
                runs = list(self._runs.values())
            return [run for run in runs if run.run_id not in known or run.updated_at > min(since, known[run.run_id])]

        return await self._runs_bell.until(look, block_s)

    async def wire(self, run: Run, key: str) -> Wire:
        return run.wire

    async def v1_stream(self, run_id: str, key: str) -> _LiveV1:
        with self._guard:
            return self._v1_of(run_id, key)

    async def v2_stream(self, run_id: str, key: str) -> _LiveV2:
        with self._guard:
            if (run_id, key) not in self._v2 and not self._create_on_read:
                raise NoSuchStream(key)
            return self._v2_of(run_id, key)

    # Within

    def _append_entries(
        self,
        run_id: str,
        key: str,
        pieces: list[tuple[str | bytes, V1Id | str | None]],
    ) -> list[V1Id]:
        with self._guard:
            self._expect(run_id, Wire.V1)
            self.open_stream(run_id, key)
            stream = self._v1_of(run_id, key)
            now_ms = self._now_ms()
            ids: list[V1Id] = []
            for data, entry_id in pieces:
                chosen = stream.log.next_id(now_ms) if entry_id is None else _entry_id(entry_id)
                stream.log.append(Entry(chosen, _bytes(data)))
                ids.append(chosen)
            if self._v1_max_entries is not None:
                stream.log.trim(self._v1_max_entries)
        stream.notifier.ring()
        return ids

    def _change_run(self, run_id: str, change: Callable[[Run], Run]) -> None:
        with self._guard:
            run = self._runs[run_id]
            # Readers find changes by this time, so it grows with each, also within one millisecond.
            updated_at = max(self._now(), run.updated_at + timedelta(milliseconds=1))
            self._runs[run_id] = replace(change(run), updated_at=updated_at)
        self._run_bells[run_id].ring()
        self._runs_bell.ring()

    def _expect(self, run_id: str, wire: Wire) -> None:
        if self._runs[run_id].wire is not wire:
            raise ValueError(f"run {run_id} is not a {wire} run")

    def _v1_of(self, run_id: str, key: str) -> _LiveV1:
        stream = self._v1.get((run_id, key))
        if stream is None:
            stream = self._v1[run_id, key] = _LiveV1(self._guard)
        return stream

    def _v2_of(self, run_id: str, key: str) -> _LiveV2:
        stream = self._v2.get((run_id, key))
        if stream is None:
            stream = self._v2[run_id, key] = _LiveV2(self._guard)
        return stream

    def _nanoid(self) -> str:
        return "".join(self._ids.choices(_NANOID_ALPHABET, k=7))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self._now_ms())


class _LiveV1:
    """The same object for as long as the store lives: an expired key that is written again wakes its readers."""

    def __init__(self, guard: threading.RLock) -> None:
        self.log = EntryLog()
        self.notifier = Notifier()
        self._guard = guard

    async def last_id(self) -> V1Id:
        with self._guard:
            return self.log.last_id

    async def after(self, cursor: V1Id, block_s: float) -> Sequence[Entry]:
        def look() -> list[Entry]:
            with self._guard:
                return self.log.after(cursor)

        return await self.notifier.until(look, block_s)


class _LiveV2:
    """One life of a stream: when it is deleted, this object is never used again."""

    def __init__(self, guard: threading.RLock) -> None:
        self.log = RecordLog()
        self.notifier = Notifier()
        self.removed = False
        self._guard = guard

    async def tail(self) -> Tail:
        with self._guard:
            if self.removed:
                raise StreamRemoved
            return self.log.tail

    async def since(self, seq_num: int, block_s: float) -> Page:
        def look() -> Page | None:
            page = self._page(seq_num)
            return page if page.records else None

        return await self.notifier.until(look, block_s) or self._page(seq_num)

    def _page(self, seq_num: int) -> Page:
        with self._guard:
            if self.removed:
                raise StreamRemoved
            return self.log.since(seq_num)


def _entry_id(entry_id: V1Id | str) -> V1Id:
    if isinstance(entry_id, V1Id):
        return entry_id
    ms, _, seq = entry_id.partition("-")
    return V1Id(int(ms), int(seq))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
