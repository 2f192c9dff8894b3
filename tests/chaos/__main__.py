"""`make chaos`: schedules of faults for as long as told; beside them, the core in virtual time.

The last line is one JSON object. Exit code 1 on any violation, and when a deliberate fault is not found.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psycopg

from tests.chaos.schedule import Schedule, Tally
from worker.embedded.throwaway import Servers, ephemeral
from worker.store.migrate import upgrade

SIMULATED = 100_000
TEMPLATE = "chaos_template"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None, help="only this schedule")
    parser.add_argument("--faults-seconds", type=float, default=15, help="of one schedule")
    asked = parser.parse_args()
    until = time.monotonic() + asked.seconds
    simulated: multiprocessing.Queue[dict[str, object]] = multiprocessing.Queue()
    simulation = multiprocessing.Process(target=simulate, args=(asked.seconds, simulated), daemon=True)
    simulation.start()
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="tailrace-chaos-") as place:
        root = Path(place)
        with ephemeral(root / "servers") as servers:
            prepare(servers)
            seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 30)
            while True:
                say(f"schedule {tally.schedules + 1}: SEED={seed}")
                for wrong in play(seed, servers, root, tally, asked.faults_seconds):
                    say(f"  VIOLATION {wrong}")
                if asked.seed is not None or time.monotonic() > until:
                    break
                seed += 1
    result = tally.figures() | simulated.get(timeout=asked.seconds + 600)
    say(json.dumps(result))
    wrong = tally.violations or result["simulation_violations"] or result["mutants_not_found"]
    return 1 if wrong else 0


def prepare(servers: Servers) -> None:
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    upgrade(servers.postgres.url(TEMPLATE))


def play(seed: int, servers: Servers, root: Path, tally: Tally, faults_s: float) -> list[str]:
    """Run one schedule on a database of its own."""
    name = f"chaos_{seed}_{tally.schedules}"
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    try:
        return Schedule(seed, servers, servers.postgres.url(name), root / name, tally).run(faults_s)
    except Exception:  # noqa: BLE001  a schedule that breaks is a failure like any other
        problem = traceback.format_exc()
        tally.violations.append(f"seed {seed}: {problem}")
        return [problem]


def simulate(seconds: float, out: multiprocessing.Queue[dict[str, object]]) -> None:
    """Play schedules in virtual time: 100 000 of them, or as many as there is time for."""
    from tests.simulation.core import play
    from tests.simulation.mutants import MUTANTS, caught

    began = time.monotonic()
    first = random.SystemRandom().randrange(1 << 40)
    wrong = []
    count = 0
    missed = [name for name in MUTANTS if caught(name) is None]
    while count < SIMULATED and time.monotonic() - began < seconds:
        seed = first + count
        if found := list(play(seed).violations()):
            wrong.append((seed, found))
            say(f"  VIOLATION in the simulation, seed {seed}: {found}")
        count += 1
    out.put({"simulated": count, "simulation_violations": len(wrong), "mutants_not_found": missed})


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
