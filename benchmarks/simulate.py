"""How many workers a load needs: ``python -m benchmarks.simulate --help``.

Streams arrive at random (Poisson), live for a while, alternate between talking and pausing, and are read by the worker
process that has the fewest. A process is one core: each packet, each opening and each ping takes its measured CPU time,
and what does not fit into a moment waits for the next. A chunk becomes visible after the time that its batch waits,
plus whatever work is queued before it, plus the commit.

The costs are those that the benchmark measured (`COSTS`, or ``--costs results/latest.json``). ``--check`` runs the
loads of P3 and P4 and compares with what was measured there.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

TICK_S = 0.1
BASE_MB = 105.0
USABLE = 0.7
"""Of a core: above this, queues grow at every burst."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What things take on the machine that was measured. CPU microseconds unless the name says otherwise."""

    packet: float = 75.0  # a packet with a few chunks, from the socket to the statement
    chunk: float = 3.5  # each chunk in it
    ping: float = 280.0  # everything that an idle stream costs, as if it came with its ping
    opening: float = 1_300.0
    stream_kb: float = 49.0
    postgres_chunk: float = 1.5  # in large segments
    postgres_segment: float = 25.0  # each row of segments, its stream's row and its part of a statement
    commit_ms: float = 12.0
    connections: float = 4.0  # of one process, at most


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to archive."""

    streams_per_s: float = 1.0
    lives_s: float = 60.0  # on average, exponential
    talking: float = 1.0  # the share of its life in which a stream sends; pauses are as long as `talk_s` makes them
    talk_s: float = 10.0
    chunks_per_s: float = 10.0  # of a stream that talks
    packets_per_s: float = 5.0
    ping_s: float = 10.0
    batch_age_ms: float = 250.0
    slots: int = 1_000  # of a process


@dataclass(slots=True)
class Outcome:
    """What a load does to so many processes."""

    workers: int
    streams: float = 0.0
    chunks_per_s: float = 0.0
    worker_cores: float = 0.0
    busiest: float = 0.0
    postgres_cores: float = 0.0
    lag_p50_ms: float = 0.0
    lag_p99_ms: float = 0.0
    waiting_for_slot: float = 0.0
    memory_mb: float = 0.0
    connections: float = 0.0
    chunks_per_segment: float = 0.0


def simulate(load: Load, costs: Costs, workers: int, for_s: float = 120.0, seed: int = 1) -> Outcome:
    """Run ``load`` on ``workers`` processes, after it has settled.

    ``streams_per_s`` 0 keeps ``lives_s`` streams open all the time instead.
    """
    chance = random.Random(seed)
    open_streams = _Population(load, chance)
    queued = [0.0] * workers  # CPU seconds of work that waits
    done = [0.0] * workers
    lags: list[tuple[float, float]] = []
    outcome = Outcome(workers)
    ticks = int(for_s / TICK_S)
    per_packet = load.chunks_per_s / load.packets_per_s if load.packets_per_s else 0.0
    peak = waiting = 0.0
    for _ in range(ticks):
        opened = open_streams.step(TICK_S)
        reading = min(len(open_streams), workers * load.slots)
        waiting += len(open_streams) - reading
        share = reading / workers
        talking = share * open_streams.talking_share
        chunks = 0.0
        for each in range(workers):
            packets = _poisson(chance, talking * load.packets_per_s * TICK_S)
            pings = _poisson(chance, (share - talking) / load.ping_s * TICK_S) if load.ping_s else 0
            work_us = packets * (costs.packet + per_packet * costs.chunk) + pings * costs.ping
            work_us += opened / workers * costs.opening
            queued[each] += work_us / 1e6
            did = min(queued[each], TICK_S)
            queued[each] -= did
            done[each] += did
            lags.append((queued[each], packets))
            chunks += packets * per_packet
        outcome.chunks_per_s += chunks / for_s
        outcome.streams += len(open_streams) / ticks
        peak = max(peak, len(open_streams))
    outcome.worker_cores = sum(done) / for_s
    outcome.busiest = max(done) / for_s
    outcome.waiting_for_slot = waiting / ticks
    # A batch begins with a packet, and a flush takes along what is at least 0.8 of the age old.
    per_batch = max(1.0, per_packet + 0.8 * load.chunks_per_s * load.batch_age_ms / 1000)
    outcome.chunks_per_segment = per_batch
    segments_per_s = outcome.chunks_per_s / per_batch
    outcome.postgres_cores = (
        outcome.chunks_per_s * costs.postgres_chunk + segments_per_s * costs.postgres_segment
    ) / 1e6
    outcome.lag_p50_ms = _lag(lags, load, costs, outcome.busiest, 0.5, chance)
    outcome.lag_p99_ms = _lag(lags, load, costs, outcome.busiest, 0.99, chance)
    outcome.memory_mb = workers * BASE_MB + peak * costs.stream_kb / 1024
    outcome.connections = workers * costs.connections
    return outcome


def needed(load: Load, costs: Costs, lag_ms: float) -> Outcome:
    """Find the fewest processes with a slot for every stream, none busier than 70 %, and p99 within the lag."""
    workers = 1
    while True:
        found = simulate(load, costs, workers, for_s=60.0)
        if found.busiest <= USABLE and found.waiting_for_slot == 0 and found.lag_p99_ms <= lag_ms:
            return found
        grow = max(found.busiest / USABLE, found.streams / (load.slots * workers), 1.0)
        workers = max(workers + 1, math.ceil(workers * min(grow, 4.0)))


class _Population:
    """The open streams: when each ends. How many of them talk follows from the load."""

    def __init__(self, load: Load, chance: random.Random) -> None:
        self._load, self._chance, self._now = load, chance, 0.0
        fixed = load.streams_per_s == 0
        settled = load.lives_s if fixed else load.streams_per_s * load.lives_s
        self._ends = [math.inf if fixed else chance.expovariate(1 / load.lives_s) for _ in range(round(settled))]
        heapq.heapify(self._ends)
        self.talking_share = load.talking

    def __len__(self) -> int:
        return len(self._ends)

    def step(self, seconds: float) -> int:
        """Let time pass; return how many streams were opened."""
        self._now += seconds
        while self._ends and self._ends[0] <= self._now:
            heapq.heappop(self._ends)
        new = _poisson(self._chance, self._load.streams_per_s * seconds)
        for _ in range(new):
            heapq.heappush(self._ends, self._now + self._chance.expovariate(1 / self._load.lives_s))
        if self._load.talking < 1:
            # Talks and pauses are as random as lives: the share wanders with the square root of the number.
            count = max(1, len(self._ends))
            spread = math.sqrt(self._load.talking * (1 - self._load.talking) / count)
            drawn = self._chance.gauss(self._load.talking, spread)
            keep = math.exp(-seconds / self._load.talk_s)
            self.talking_share = min(1.0, max(0.0, keep * self.talking_share + (1 - keep) * drawn))
        return new


def _lag(
    lags: list[tuple[float, float]], load: Load, costs: Costs, busy: float, share: float, chance: random.Random
) -> float:
    """Of a chunk: the wait of its batch, the queue before it, and a commit that slows with the work."""
    found: list[float] = []
    weights = [packets for _, packets in lags]
    if not any(weights):
        return 0.0
    for queue_s, _ in chance.choices(lags, weights=weights, k=5_000):
        commit_ms = costs.commit_ms / max(0.1, 1 - min(busy, 0.9))
        found.append(chance.random() * load.batch_age_ms + 1_000 * queue_s + chance.uniform(1, 2) * commit_ms)
    return sorted(found)[int(share * len(found)) - 1]


def _poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


P3 = Load(streams_per_s=0, lives_s=1_000, chunks_per_s=10, packets_per_s=5)
P4 = Load(streams_per_s=0, lives_s=10_000, talking=0.0, slots=10_000)  # as in results/latest.json


def costs_of(results: dict[str, Any], costs: Costs) -> Costs:
    """Take the costs that a run of the benchmark measured."""
    rows = results["rows"]

    def median(row: str, figure: str) -> float:
        return float(rows[row]["figures"][figure]["median"])

    if "P2" in rows:
        costs = replace(costs, chunk=median("P2", "CPU of tailrace"), postgres_chunk=median("P2", "CPU of postgres"))
    if "P3" in rows:
        per_packet = median("P3", "CPU of worker per packet") - 2 * costs.chunk
        segments_per_s = median("P3", "chunks archived") / median("P3", "chunks per segment")
        postgres = 1e6 * median("P3", "Postgres CPU") - costs.postgres_chunk * median("P3", "chunks archived")
        costs = replace(costs, packet=per_packet, postgres_segment=postgres / segments_per_s)
    if "P4" in rows:
        pings_per_s = P4.lives_s / P4.ping_s
        costs = replace(
            costs,
            ping=1e4 * median("P4", "worker CPU, idle") / pings_per_s,
            stream_kb=median("P4", "memory of a stream"),
            connections=median("P4", "Postgres connections"),
        )
    return costs


def check(results: dict[str, Any], costs: Costs) -> list[str]:
    """Compare the simulated P3 and P4 with the measured; return what differs too much, or was not measured."""
    wrong: list[str] = []
    live, idle = simulate(P3, costs, 1), simulate(P4, costs, 1)
    pairs = [
        ("P3 worker cores", live.worker_cores, "P3", "worker CPU", 1.0, 0.15),
        ("P3 p50 ms", live.lag_p50_ms, "P3", "visible in SQL, p50", 1.0, 0.5),
        ("P3 p99 ms", live.lag_p99_ms, "P3", "visible in SQL, p99", 1.0, 0.5),
        ("P3 Postgres cores", live.postgres_cores, "P3", "Postgres CPU", 1.0, 0.25),
        ("P4 worker cores", idle.worker_cores, "P4", "worker CPU, idle", 0.01, 0.15),
    ]
    for name, simulated, row, figure, factor, tolerance in pairs:
        if row not in results["rows"]:
            wrong.append(f"{name} (not measured)")
            continue
        measured = factor * results["rows"][row]["figures"][figure]["median"]
        off = simulated / measured - 1
        print(f"{name:20s} simulated {simulated:9.3f}  measured {measured:9.3f}  {off:+.0%}")
        if abs(off) > tolerance:
            wrong.append(name)
    return wrong


def main(arguments: Sequence[str]) -> int:
    """Simulate; print the outcome as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__.split("\n", 1)[0])
    for name, default in asdict(Load()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--workers", type=int, help="so many processes; without it, the fewest that will do")
    parser.add_argument("--lag-ms", type=float, default=500.0, help="p99 that is wanted")
    parser.add_argument("--costs", type=Path, help="take the costs from results of the benchmark")
    parser.add_argument("--check", action="store_true", help="compare with the measured P3 and P4 (needs --costs)")
    given = vars(parser.parse_args(arguments))
    costs = Costs()
    results: dict[str, Any] = {}
    if given["costs"]:
        results = json.loads(given["costs"].read_text())
        costs = costs_of(results, costs)
    if given["check"]:
        wrong = check(results, costs)
        print(f"Too far off: {', '.join(wrong)}." if wrong else "The simulation agrees with the measurement.")
        return 1 if wrong else 0
    load = Load(**{name: given[name] for name in asdict(Load())})
    found = simulate(load, costs, given["workers"]) if given["workers"] else needed(load, costs, given["lag_ms"])
    shown = {name: round(value, 3) for name, value in asdict(found).items()}
    print(json.dumps({"load": asdict(load), "costs": asdict(costs), "outcome": shown}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
