"""The naive worker: what one writes after reading the documentation. httpx-sse, ten chunks, an insert, a checkpoint."""

from __future__ import annotations

import json
import sys

import httpx
import sqlalchemy as sa
from httpx_sse import connect_sse

from benchmarks import rivals
from tailrace.serve.app import DEFAULT_KEY
from tailrace.store.engine import normal_url

BATCH = 10


def measure(api_url: str, run_id: str, count: int, database_url: str) -> rivals.Found:
    """Read ``count`` chunks into a table of one row a chunk."""
    command, environ = rivals.ours("benchmarks.rivals.naive", api_url, run_id, str(count), database_url)
    return rivals.measure(command, count, environ=environ)


def main(api_url: str, run_id: str, count: int, database_url: str) -> None:
    """Read in this process, and report; ``count`` is a multiple of ten."""
    engine = sa.create_engine(normal_url(database_url))
    meta = sa.MetaData()
    table = sa.Table(
        "naive_chunks",
        meta,
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Text, primary_key=True),
        sa.Column("data", sa.JSON, nullable=False),
    )
    fingerprints = sa.Table(
        "naive_checkpoints", meta, sa.Column("run_id", sa.Text, primary_key=True), sa.Column("last_event_id", sa.Text)
    )
    meta.drop_all(engine)
    meta.create_all(engine)
    with engine.begin() as connection:
        connection.execute(fingerprints.insert().values(run_id=run_id, last_event_id=""))
    batch: list[dict[str, object]] = []
    stored = 0

    def flush(last_event_id: str) -> None:
        nonlocal stored
        with engine.begin() as connection:
            connection.execute(table.insert(), batch)
            connection.execute(
                fingerprints.update().where(fingerprints.c.run_id == run_id).values(last_event_id=last_event_id)
            )
        stored += len(batch)
        batch.clear()

    headers = {"Authorization": f"Bearer {DEFAULT_KEY}"}
    with (
        rivals.reported(),
        httpx.Client(headers=headers, timeout=60, trust_env=False) as client,
        connect_sse(client, "GET", f"{api_url}/realtime/v1/streams/{run_id}/default") as source,
    ):
        for event in source.iter_sse():
            if event.event == "batch":
                for record in json.loads(event.data)["records"]:
                    data = json.loads(record["body"])["data"]
                    batch.append({"run_id": run_id, "position": str(record["seq_num"]), "data": data})
                    if len(batch) == BATCH:
                        flush(str(record["seq_num"]))
            elif event.data and event.event == "message":
                batch.append({"run_id": run_id, "position": event.id, "data": json.loads(event.data)})
                if len(batch) == BATCH:
                    flush(event.id)
            if stored >= count:
                break
    meta.drop_all(engine)
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
