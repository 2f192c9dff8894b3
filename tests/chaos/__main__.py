"""`make chaos`: schedules of faults for as long as told; beside them, at the lowest priority, the core in virtual time.

The last line is one JSON object. Exit code 1 on any violation, and when a deliberate fault is not found.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psycopg

from tailrace.store.migrate import upgrade
from tests.chaos.schedule import Schedule
from tests.chaos.tally import Tally
from tests.simulation.many import Simulations
from tests.throwaway import Servers, ephemeral

SECONDS = 300.0
FAULTS_S = 15.0
SIMULATED = 100_000
TEMPLATE = "chaos_template"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, help=f"how long; without it {SECONDS:g}, and {SIMULATED} simulations")
    parser.add_argument("--simulated", type=int, help="schedules in virtual time, however long they take")
    parser.add_argument("--seed", type=int, help="only this schedule, and nothing simulated")
    parser.add_argument("--faults-seconds", type=float, default=FAULTS_S, help="of one schedule")
    parser.add_argument("--pool", choices=("gevent", "threads", "prefork", "solo"), help="of all workers")
    asked = parser.parse_args()
    seconds = asked.seconds if asked.seconds is not None else SECONDS
    least = asked.simulated if asked.simulated is not None else 0 if asked.seconds is not None else SIMULATED
    tally = Tally()
    if asked.seed is not None:
        schedules(tally, asked.seed, 0, asked.faults_seconds, asked.pool)
        say(json.dumps(tally.figures()))
        return 1 if tally.violations else 0
    until = time.monotonic() + seconds
    simulations = Simulations(random.SystemRandom().randrange(1 << 40), seconds, least, max(least, SIMULATED))
    schedules(tally, random.SystemRandom().randrange(1 << 30), until, asked.faults_seconds, asked.pool)
    simulated = simulations.result()
    for seed, found in simulated.wrong:
        say(f"  VIOLATION in the simulation, tests.simulation.core.play({seed}): {found}")
    say(json.dumps(tally.figures() | simulated.figures()))
    return 1 if tally.violations or simulated.wrong or simulated.mutants_not_found else 0


def schedules(tally: Tally, seed: int, until: float, faults_s: float, pool: str | None) -> None:
    """Play one schedule after another, beginning with ``seed``, until it is time; one at least."""
    with tempfile.TemporaryDirectory(prefix="tailrace-chaos-") as place:
        root = Path(place)
        with ephemeral(root / "servers") as servers:
            prepare(servers)
            while True:
                say(f"schedule {tally.schedules + 1}: SEED={seed}")
                for wrong in play(seed, servers, root, tally, faults_s, pool):
                    say(f"  VIOLATION {wrong}")
                if time.monotonic() >= until:
                    return
                seed += 1


def prepare(servers: Servers) -> None:
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    upgrade(servers.postgres.url(TEMPLATE))


def play(seed: int, servers: Servers, root: Path, tally: Tally, faults_s: float, pool: str | None = None) -> list[str]:
    """Run one schedule on a database of its own."""
    name = f"chaos_{seed}"
    with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    schedule = Schedule(seed, servers, servers.postgres.url(name), root / name, tally, pool)
    try:
        return schedule.run(faults_s)
    except Exception:  # noqa: BLE001  a schedule that breaks is a failure like any other
        problem = traceback.format_exc()
        tally.violations.append(f"seed {seed}: {problem}")
        return [problem]
    finally:
        say(f"  {'; '.join(schedule.story)}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
