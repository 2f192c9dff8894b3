"""What the time of a chunk is spent on: ``python -m benchmarks.stages``. CPU microseconds a chunk, step by step.

Each step runs alone over the whole stream in memory, the cheapest of five, with the worker's own garbage collection
settings. What the whole worker needs beyond their sum (sockets, HTTP, the statement's round trip, switching) is seen in
P1 and P2.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.rivals.limit import MAX_EVENT_CHARS, blocks
from tailrace.ingest.assembly import Assembly, Records
from tailrace.model import Batch, Checkpoint, Wire
from tailrace.store.commit import Flush, _parameters
from tailrace.tasks.process import GC_OBJECTS
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder

CHUNKS = 100_000
BATCHES_PER_FLUSH = 5


def measure(wire: str) -> dict[str, float]:
    """Return µs a chunk of each step."""
    found: dict[str, float] = {}
    texts = blocks(wire, CHUNKS)
    raw = [text.encode() for text in texts]

    def step(name: str, call: Callable[[], Any]) -> Any:
        best, result = float("inf"), None
        for _ in range(5):
            del result
            began = time.process_time()
            result = call()
            best = min(best, time.process_time() - began)
        found[name] = 1e6 * best / CHUNKS
        return result

    def frame() -> list[Any]:
        framer = Framer(MAX_EVENT_CHARS)
        return [framer.feed(text) for text in texts]

    def decode() -> list[Any]:
        decoder = V2Decoder() if wire == "v2" else V1Decoder()
        return [arrival for each in events for arrival in decoder.decode(each)]

    def admit() -> list[Batch]:
        kept = _Kept()
        assembly = Assembly(kept, Checkpoint(), Wire(wire))
        assembly.resume()
        assembly.opened(Wire(wire), None)
        for arrival in arrivals:
            assembly.arrive(arrival)
        assembly.left()
        return kept.batches

    def lay_out() -> None:
        for at in range(0, len(batches), BATCHES_PER_FLUSH):
            group = batches[at : at + BATCHES_PER_FLUSH]
            _parameters([Flush(1, 1, 1, Wire(wire), group[-1].checkpoint, group, max_chunks=500)])

    step("bytes to text", lambda: [each.decode() for each in raw])
    events = step("framing (httpx-sse)", frame)
    arrivals = step("decoding", decode)
    batches = step("checking and ordering", admit)
    step("statement's arrays", lay_out)
    found["all"] = sum(found.values())
    return found


class _Kept:
    """Keeps the batches, as an assembly's output."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._held: Batch | None = None

    def put(self, batch: Batch, wire: Wire, records: Records) -> None:
        self.confirm()
        self.batches.append(batch)

    def hold(self, batch: Batch, wire: Wire, records: Records) -> None:
        self.confirm()
        self._held = batch

    def confirm(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self.batches.append(held)

    def withdraw(self) -> bool:
        self.confirm()
        return False


def main() -> None:
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)
    result = {wire: measure(wire) for wire in ("v1", "v2")}
    print(f"{'us a chunk':26s}{'v1':>8s}{'v2':>8s}")
    for name in result["v1"]:
        print(f"{name:26s}{result['v1'][name]:8.2f}{result['v2'][name]:8.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
