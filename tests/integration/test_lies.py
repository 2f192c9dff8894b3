"""Something between upstream and the workers says what is not so: nothing is doubled, lost or told as lost."""

from __future__ import annotations

from pathlib import Path

from tailrace.model import Wire
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.upstream import LiveStore
from tests.upstream.faults import Lie

CHUNKS = 200
ALWAYS = 10_000


def test_lies_double_and_lose_nothing(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """A batch that comes twice, or an old tail, in every response; an empty stream, or a lost batch, in two of them."""
    store = LiveStore()
    store.create_run("run_1", Wire.V2)
    keys = {Lie.TWICE: ALWAYS, Lie.OLD_TAIL: ALWAYS, Lie.NOTHING: 2, Lie.LOST: 2}
    for key in keys:
        for number in range(CHUNKS):
            store.append_chunk("run_1", key, str(number))
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, upstream):
        archive = workers.archive
        for lie, times in keys.items():
            upstream.faults.stream("run_1", lie).lie(lie, times=times)
        archive.request("run_1")
        workers.started()
        wait_for(
            lambda: archive.value("SELECT count(*) = 4 FROM tailrace.streams_now WHERE chunk_count = %s", CHUNKS), 30
        )
        for key in (Lie.NOTHING, Lie.LOST):  # once more, of streams that are held
            upstream.faults.stream("run_1", key).lie(key, times=2)
        for number in range(CHUNKS, 2 * CHUNKS):
            for key in keys:
                store.append_chunk("run_1", key, str(number))
        store.finish_run("run_1")
        wait_for(lambda: archive.all_sealed(1), 60)
        texts = [str(number) for number in range(2 * CHUNKS)]
        assert {key: archive.texts("run_1", key) for key in keys} == dict.fromkeys(keys, texts)
        assert archive.rows("SELECT DISTINCT generation, hole_count, verdict FROM tailrace.streams") == [
            (0, 0, "complete")
        ]
        assert archive.violations() == []
