"""What a process answers over HTTP, and to whom."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter

from tailrace.errors import BadSettings
from tailrace.service.endpoint import Endpoint
from tests.scraped import scraped


@contextmanager
def answering(live: list[str], ready: list[str], notes: list[str] | None = None) -> Iterator[Endpoint]:
    registry = CollectorRegistry()
    Counter("tailrace_things", "Things.", ["kind"], registry=registry).labels("a").inc(3)
    endpoint = Endpoint("127.0.0.1", 0, registry, lambda: live, lambda: ready, lambda: notes or [])
    endpoint.start()
    try:
        yield endpoint
    finally:
        endpoint.stop()


def asked(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_metrics_and_probes() -> None:
    with answering([], ["leases could not be renewed for 9 s"]) as endpoint:
        assert scraped(endpoint.port)["tailrace_things_total", (("kind", "a"),)] == 3
        assert asked(endpoint, "/live") == (200, "ok\n")
        assert asked(endpoint, "/ready") == (503, "leases could not be renewed for 9 s\n")


def test_who_is_ready_says_what_else_somebody_should_know() -> None:
    with answering([], [], ["2 streams are stuck"]) as endpoint:
        assert asked(endpoint, "/ready") == (200, "ok\n2 streams are stuck\n")
        assert asked(endpoint, "/live") == (200, "ok\n")


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/live/x", "GET", 404), ("/live", "POST", 405)]
)
def test_nothing_else_is_answered(path: str, method: str, status: int) -> None:
    with answering([], []) as endpoint:
        assert asked(endpoint, path, method)[0] == status


def test_who_connects_and_says_nothing_keeps_nobody_waiting() -> None:
    with answering([], []) as endpoint:
        silent = [socket.create_connection(("127.0.0.1", endpoint.port)) for _ in range(20)]
        assert asked(endpoint, "/ready") == (200, "ok\n")
        for each in silent:
            each.close()


def test_a_port_that_is_taken_is_refused_with_its_number() -> None:
    with answering([], []) as endpoint, pytest.raises(BadSettings, match=f"Port {endpoint.port} of 127.0.0.1"):
        Endpoint("127.0.0.1", endpoint.port, CollectorRegistry(), list, list)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadSettings, match=r"no\.such\.invalid"):
        Endpoint("no.such.invalid", 0, CollectorRegistry(), list, list)
