"""Free ports."""

from __future__ import annotations

import socket

import pytest

from tailrace.devtools.servers import ports
from tailrace.errors import BadSettings


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as taken:
        assert not ports.is_free(taken.getsockname()[1])


def test_a_picked_port_is_free_and_never_one_of_an_outgoing_connection() -> None:
    low, high = ports._outgoing_range()
    picked = [ports.pick() for _ in range(50)]
    assert not [port for port in picked if low <= port <= high]
    assert len(set(picked)) > 40


def test_when_every_port_is_for_outgoing_connections_any_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_outgoing_range", lambda: (1024, 65_535))
    assert ports.FIRST <= ports.pick() <= ports.LAST


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(BadSettings, match="no free port"):
        ports.pick()
