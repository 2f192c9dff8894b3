"""Free ports on the loopback address."""

from __future__ import annotations

import errno
import secrets
import socket
from pathlib import Path

from tailrace.errors import BadSettings

LOOPBACK = "127.0.0.1"
FIRST, LAST = 15_000, 49_151
TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen there now. It may be taken a moment later: the server has the last word."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as both servers do
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise BadSettings(f"cannot listen on {LOOPBACK}: {error.strerror}") from error
    return True


def pick() -> int:
    """A free port outside the range that the kernel hands to outgoing connections.

    A port from that range could be taken by any client while the server is down, and a client that keeps knocking at
    a closed port of it can end up connected to itself.
    """
    low, high = _outgoing_range()
    candidates = [port for port in range(FIRST, LAST + 1) if not low <= port <= high]
    for _ in range(TRIES):
        port = secrets.choice(candidates or range(FIRST, LAST + 1))
        if is_free(port):
            return port
    raise BadSettings(f"no free port on {LOOPBACK}")


def _outgoing_range() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return 49_152, 65_535  # IANA's range, which macOS uses
    return int(low), int(high)
