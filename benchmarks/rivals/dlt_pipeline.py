"""Run by `pipelines`, with dlt's own interpreter: one stream as an incremental resource, loaded into Postgres."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt
import httpx
from httpx_sse import connect_sse

PAGE = 1_000


def main(api_url: str, run_id: str, count: int, database_url: str, number: str) -> None:
    """Load ``count`` chunks, and print seconds and CPU seconds."""

    @dlt.resource(name="chunks", write_disposition="append", primary_key=("run_id", "position"))
    def chunks(
        cursor: Any = dlt.sources.incremental("position", initial_value=-1),  # noqa: B008  dlt's way
    ) -> Iterator[list[dict[str, Any]]]:
        page: list[dict[str, Any]] = []
        position = 0
        headers = {"Authorization": f"Bearer {os.environ['TRIGGER_KEY']}"}
        with (
            httpx.Client(headers=headers, timeout=60, trust_env=False) as client,
            connect_sse(client, "GET", f"{api_url}/realtime/v1/streams/{run_id}/default") as source,
        ):
            for event in source.iter_sse():
                if event.event == "batch":
                    texts = [json.dumps(json.loads(each["body"])["data"]) for each in json.loads(event.data)["records"]]
                elif event.data and event.event == "message":
                    texts = [event.data]
                else:
                    continue
                for text in texts:
                    page.append({"run_id": run_id, "position": position, "event_id": event.id, "data": text})
                    position += 1
                if len(page) >= PAGE or position >= count:
                    yield page
                    page = []
                if position >= count:
                    return

    pipeline = dlt.pipeline(
        pipeline_name=f"bench_{number}_{os.getpid()}",
        destination=dlt.destinations.postgres(database_url),
        dataset_name=f"dlt_bench_{number}",
        dev_mode=False,
    )
    began, cpu = time.perf_counter(), sum(os.times()[:4])
    pipeline.run(chunks())
    seconds, cpu_s = time.perf_counter() - began, sum(os.times()[:4]) - cpu
    peak_mb = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
