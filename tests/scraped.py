"""What a process of ours shows to Prometheus."""

from __future__ import annotations

import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name and sorted labels."""


def free_port() -> int:
    """Return a port of this machine that nobody uses at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def page(port: int, path: str = "/metrics") -> str:
    """Return what is answered on this port of this machine. Raises what urllib raises, for a status of 400 and more."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        text: bytes = answer.read()
    return text.decode()


def scraped(port: int) -> dict[Series, float]:
    """Return every sample that is shown there."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page(port))
        for sample in family.samples
    }
