"""The regression gate: ``python -m benchmarks.quick`` (``make bench-quick``). Below a minute when all is as it was.

Machines differ, so nothing is compared in seconds. Each figure is a *cost ratio*: what Tailrace needs, over what a
piece of code that is not ours needs in the same run on the same machine. One that is more than 25 % above the committed
baseline fails. CPU time is compared, not elapsed time, because it hardly depends on what else the machine does; of
three runs the cheapest counts, and what seems dearer is measured again, all of it, before it fails.

The last line of output is one JSON object of the ratios. ``--update`` makes them the baseline.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from httpx_sse._decoders import SSEDecoder

from benchmarks.rivals import limit
from benchmarks.scenarios.live import request_all
from benchmarks.scenarios.many import asked_at_once
from benchmarks.scenarios.scrapes import cost_of_scrapes
from benchmarks.scenarios.snapshot import cost_beside_a_snapshot
from benchmarks.scenarios.speed import archived
from benchmarks.stage import ROOT, Stage, UpstreamProcess, stage
from benchmarks.usage import cpu_s, load
from tailrace import streams
from tailrace.serve.app import DEFAULT_KEY
from tailrace.streams.steps import Source
from tests.spans import collecting

BASELINE = Path(__file__).parent / "baseline.json"
LOSS = 1.25
RUNS = 3
TRIES = 3
"""How often all is measured while something seems dearer: what is dearer is so each time, the machine's mood is not."""
CHUNKS = 100_000
REFERENCE_CHUNKS = 30_000
SOURCES: tuple[Source, ...] = ("upstream", "archive")
STREAMS, LIVE_S, LIVE_EVERY_S = 100, 4.0, 0.1


def main(arguments: Sequence[str]) -> int:
    """Measure and compare; 1 when something has become dearer by more than 25 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description="The regression gate.")
    parser.add_argument("--update", action="store_true", help="make what was measured the baseline")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    before = json.loads(BASELINE.read_text())["ratios"] if BASELINE.exists() else {}
    ratios: dict[str, float] = {}
    worse: list[str] = []
    for _ in range(1 if given.update else TRIES):
        with stage() as ready:
            found = measure(ready)
        ratios = {name: min(ratio, ratios.get(name, ratio)) for name, ratio in found.items()}
        worse = [name for name, ratio in ratios.items() if name in before and ratio > LOSS * before[name]]
        if not worse:
            break
        print("measured again: " + ", ".join(f"{name} {ratios[name]:.3f}, was {before[name]:.3f}" for name in worse))
    print(f"{'cost ratio (less is better)':44s}{'now':>9s}{'baseline':>10s}")
    for name, ratio in ratios.items():
        known = before.get(name)
        mark = "  WORSE by more than 25 %" if name in worse else ""
        print(f"{name:44s}{ratio:9.3f}{known if known is not None else float('nan'):10.3f}{mark}")
    print(f"{time.monotonic() - began:.0f} s, load {load():.1f}")
    if given.update:
        BASELINE.write_text(json.dumps({"schema": 1, "ratios": ratios}, indent=1) + "\n")
    print(json.dumps(ratios))
    return 1 if worse and not given.update else 0


def measure(ready: Stage) -> dict[str, float]:
    """Return each ratio."""
    reference = {wire: _cheapest(lambda wire=wire: _reference(wire)) for wire in ("v1", "v2")}  # type: ignore[misc]
    ratios: dict[str, float] = {}
    with ready.upstream() as upstream:
        for wire in ("v1", "v2"):
            runs = [f"run_quick_{wire}_{number}" for number in range(RUNS + 1)]
            upstream.do("fill", wire=wire, count=CHUNKS, runs=runs)
        live = [f"run_quick_live_{number}" for number in range(STREAMS)]
        upstream.do("fill_each", wire="v2", runs=live, keys=1, count=1)
        with ready.worker(upstream, slots=STREAMS + 50) as worker:
            for wire in ("v1", "v2"):
                archived(ready, upstream, worker, f"run_quick_{wire}_0", CHUNKS)
                used = [
                    archived(ready, upstream, worker, f"run_quick_{wire}_{number + 1}", CHUNKS)[1].cpu_s
                    for number in range(RUNS)
                ]
                decoded = _cheapest(lambda wire=wire: limit.decode(wire, CHUNKS)[1])  # type: ignore[misc]
                ratios[f"{wire}: decoding / reference"] = decoded / reference[wire]
                ratios[f"{wire}: worker CPU / reference"] = _least(used, "worker") / reference[wire]
                ratios[f"{wire}: Postgres CPU / reference"] = _least(used, "postgres") / reference[wire]
            ratios["live: worker CPU per packet / reference"] = (
                _live(ready, upstream, worker.pid, live) / reference["v1"]
            )
        for source in SOURCES:
            read = partial(_read, ready, upstream, "run_quick_v2_1", source)
            ratios[f"v2: streams.read, {source} / reference"] = _cheapest(read) / reference["v2"]
    ready.database.rows("ANALYZE")
    ratios["view: reading / plain rows"] = _view(ready)
    ratios["space: bytes in segments / bytes of JSON"] = _space(ready)
    of_many = _run(ready, 900)
    ratios["run: one of 900 / one of 300"] = of_many / _run(ready, 300)
    with collecting() as (_, url):
        traced = _run(ready, 900, TAILRACE_TRACES="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=url)
    ratios["run: traced / not traced"] = traced / of_many
    ratios["v2: worker CPU, metrics scraped / off"] = cost_of_scrapes(ready)
    ratios["commit: after two minutes of a snapshot / before"] = cost_beside_a_snapshot(ready)
    ratios["import tailrace.tasks / import celery"] = _import("tailrace.tasks") / _import(
        "celery.app.base, kombu, redis"
    )
    ratios["tailrace --help / import typer, rich"] = _command("-m", "tailrace", "--help") / _command(
        "-c", "import typer, rich"
    )
    return {name: round(ratio, 4) for name, ratio in ratios.items()}


def _run(ready: Stage, runs: int, **settings: str) -> float:
    """CPU seconds, worker and Postgres, of one finished run, of so many that are asked for at once."""
    used = asked_at_once(ready, runs, **settings)[1].cpu_s
    return (used["worker"] + used["postgres"]) / runs


def _cheapest(measured: Callable[[], float]) -> float:
    return min(measured() for _ in range(RUNS))


def _least(used: list[dict[str, float]], name: str) -> float:
    return min(1e6 * each[name] / CHUNKS for each in used)


def _reference(wire: str) -> float:
    """µs a chunk of the obvious reader: httpx-sse's decoder, and `json.loads` of every chunk."""
    blocks = limit.blocks(wire, REFERENCE_CHUNKS)
    decoder, found, rest = SSEDecoder(), 0, ""
    cpu = time.process_time()
    for block in blocks:
        *lines, rest = (rest + block).split("\n")
        for line in lines:
            event = decoder.decode(line)
            if event is None or not event.data:
                continue
            if event.event == "batch":
                for record in json.loads(event.data)["records"]:
                    json.loads(record["body"])
                    found += 1
            else:
                json.loads(event.data)
                found += 1
    assert found == REFERENCE_CHUNKS
    return 1e6 * (time.process_time() - cpu) / found


def _live(ready: Stage, upstream: UpstreamProcess, pid: int, runs: list[str]) -> float:
    """µs a packet of the worker, with streams that get a packet of two records ten times a second.

    All at the same moment: how many sockets are ready at once would else depend on what the machine does besides, and
    the cost of a packet with it (by half, measured).
    """
    request_all(ready, runs)
    opened = (
        "SELECT count(*) = %s FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
        " WHERE r.run_id LIKE 'run_quick_live%%' AND last_chunk_index >= 0"
    )
    ready.wait(lambda: ready.database.value(opened, len(runs)), 30, "all open", 0.1)
    upstream.do("live", runs=runs, every_s=LIVE_EVERY_S, records=2, for_s=RUNS * LIVE_S + 2, together=len(runs))
    time.sleep(1.0)  # until the first packets, which find each connection asleep, are over

    def window() -> float:
        cpu, began = cpu_s(pid), upstream.do("written")["batches"]
        time.sleep(LIVE_S)
        return 1e6 * (cpu_s(pid) - cpu) / max(1, upstream.do("written")["batches"] - began)

    return _cheapest(window)


def _read(ready: Stage, upstream: UpstreamProcess, run_id: str, source: Source) -> float:
    """µs a chunk of `tailrace.streams.read` in this process."""
    client = streams.Client(DEFAULT_KEY, api_url=upstream.url, database_url=ready.database.url)
    cpu = time.process_time()
    with streams.read(run_id, source=source, client=client) as reader:  # the run goes on: the read would not end
        found = sum(1 for _ in islice(reader, CHUNKS))
    assert found == CHUNKS
    return 1e6 * (time.process_time() - cpu) / found


def _view(ready: Stage) -> float:
    """Elapsed time of reading a stream through the view over that of as many ready-made rows, the same way."""
    view = (
        "SELECT chunk_index, data_text, emitted_at FROM tailrace.chunks WHERE run_id = 'run_quick_v2_1'"
        " ORDER BY generation, chunk_index"
    )
    ready.database.rows(f"CREATE TABLE plain AS {view}")
    return _cheapest(lambda: _seconds(ready, view)) / _cheapest(lambda: _seconds(ready, "SELECT * FROM plain"))


def _seconds(ready: Stage, query: str) -> float:
    began = time.perf_counter()
    assert len(ready.database.rows(query)) == CHUNKS
    return time.perf_counter() - began


def _space(ready: Stage) -> float:
    """Bytes of the segments that were read in one go, over those of their chunks' texts."""
    stored, texts = ready.database.rows(
        "SELECT sum(pg_column_size(g.*)), sum(octet_length(g.data::text)) FROM tailrace.segments g"
        " WHERE g.chunk_count > 200"
    )[0]
    return float(stored) / float(texts)


def _import(names: str) -> float:
    code = f"import time; t = time.process_time(); import {names}; print(time.process_time() - t)"
    return _cheapest(
        lambda: float(
            subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, env=_plain_environ(), capture_output=True, text=True, check=True
            ).stdout
        )
    )


def _command(*arguments: str) -> float:
    """CPU seconds of Python with these arguments, from its start to its end."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)  # `os.times` counts in hundredths of a second
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=_plain_environ(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return _cheapest(once)


def _plain_environ() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "worker")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
