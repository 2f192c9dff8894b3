"""The embedded Valkey: connections by TCP from this machine only, a password on each."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import ClassVar

from tailrace.devtools.servers.account import Account
from tailrace.devtools.servers.binaries import valkey_binary
from tailrace.devtools.servers.home import State
from tailrace.devtools.servers.ports import LOOPBACK
from tailrace.devtools.servers.server import Server

ANSWER_TIMEOUT_S = 2.0


class Valkey(Server):
    """The Valkey of a home."""

    name: ClassVar[str] = "valkey"
    title: ClassVar[str] = "Valkey"
    program: ClassVar[str] = "valkey-server"
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]] = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))

    def url(self) -> str:
        """The URL of its database 0, password included."""
        state = self.home.load()
        return f"redis://:{state.password}@{LOOPBACK}:{state.ports[self.name]}/0"

    @property
    def _pid_path(self) -> Path:
        return self.directory / "valkey.pid"

    def _marker(self) -> str:
        return str(self._configuration_path)

    def binary(self, account: Account | None = None) -> Path:
        """The server program."""
        return valkey_binary(account)

    def _clear_up(self) -> None:
        self._pid_path.unlink(missing_ok=True)

    def _prepare(self, state: State, alive: int) -> None:
        if not self.directory.exists():
            self.home.make_private_directory(self.directory)

    def _before_spawn(self, state: State) -> None:
        # A file, because everybody on the machine can read a command line.
        pairs = (
            *self.settings.valkey,
            ("bind", LOOPBACK),
            ("port", str(state.ports[self.name])),
            ("protected-mode", "yes"),
            ("requirepass", state.password),
            ("dir", str(self.directory)),
            ("pidfile", str(self._pid_path)),
            ("set-proc-title", "no"),  # its command line is how we know it
            ("daemonize", "no"),
        )
        self.home.write_private(self._configuration_path, "".join(f"{key} {_quoted(value)}\n" for key, value in pairs))

    def _arguments(self, state: State) -> tuple[str, ...]:
        return (str(self._configuration_path),)

    def _answers(self, state: State) -> bool:
        try:
            with socket.create_connection((LOOPBACK, state.ports[self.name]), ANSWER_TIMEOUT_S) as connection:
                connection.sendall(f"AUTH {state.password}\r\nPING\r\nQUIT\r\n".encode())
                answer = b""
                while piece := connection.recv(1024):
                    answer += piece
        except (OSError, KeyError):
            return False
        return b"+PONG" in answer

    @property
    def _configuration_path(self) -> Path:
        return self.directory / "valkey.conf"


def _quoted(text: str) -> str:
    """A word of Valkey's configuration file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
