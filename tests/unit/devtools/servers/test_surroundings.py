"""What `conftest` promises to every unit test."""

from __future__ import annotations

import os
import socket

import httpx
import pytest


def test_the_network_cannot_be_reached() -> None:
    with socket.socket() as ours, pytest.raises(RuntimeError, match="a unit test tried to connect"):
        ours.connect(("127.0.0.1", 9))
    with pytest.raises(RuntimeError, match="a unit test tried to connect"):
        httpx.get("http://example.invalid/")


@pytest.mark.parametrize("turn", [1, 2])
def test_settings_do_not_leak_from_one_test_into_the_next(turn: int) -> None:
    leaked = {"DATABASE_URL", "TAILRACE_HOME", "TRIGGER_SECRET_KEY", "HTTPS_PROXY"} & os.environ.keys()
    assert leaked == set()
    os.environ["TAILRACE_HOME"] = os.environ["HTTPS_PROXY"] = "x"
