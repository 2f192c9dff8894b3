"""docs/operate.md, walked through: each block is run as it stands, and the archive is what the page says it is then.

The blocks that copy an archive are in `test_operate_copies`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tailrace.devtools.servers.account import unprivileged
from tailrace.devtools.servers.ports import pick
from tailrace.devtools.servers.postgres import Postgres
from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.store.migrate import head, upgrade
from tests.chaos import fleet as workers_of
from tests.chaos.fleet import FAST, wait_for
from tests.integration.operated import WAIT_S, Scene, a_database, at_work, made, primary
from tests.operating import PAGE, blocks
from tests.throwaway import ROOT, ephemeral_postgres, ephemeral_valkey
from tests.upstream import create_app

__all__ = ["at_work", "primary"]


# --- deploy, upgrade


def test_deploying(primary: Postgres, tmp_path: Path, redis_url: str) -> None:
    with a_database(primary) as url, made(primary, tmp_path, url, redis_url) as place:
        place.operator.variables["TAILRACE_METRICS_PORT"] = port = str(pick())
        place.walk("Deploy", 0)
        place.fleet.started(direct=True, TAILRACE_METRICS_PORT=port)
        place.begin()
        said = place.walk("Deploy", 1)
        assert "1 worker" in said
        assert "run_v2" in said
        assert "✗" not in said
        place.finish()


NEWER = '''
"""What the next version adds."""
from alembic import op
revision, down_revision, branch_labels, depends_on = "9999", "HEAD", None, None

def upgrade() -> None:
    op.execute("ALTER TABLE tailrace.streams ADD COLUMN next_note text")
    op.execute("ALTER TABLE tailrace.segments ADD COLUMN next_count int NOT NULL DEFAULT 7")
    op.execute("CREATE TABLE tailrace.next_things (id bigint PRIMARY KEY)")
    op.execute("CREATE INDEX next_note_idx ON tailrace.streams (next_note)")

def downgrade() -> None: ...
'''


def newer_version(place: Path) -> Path:
    """Make a version of Tailrace that is newer: this code, with another number and with a migration more."""
    code = shutil.copytree(ROOT / "worker" / "tailrace", place / "newer" / "tailrace")
    shutil.copytree(ROOT / "migrations", code / "migrations", dirs_exist_ok=True)
    version = code / "__init__.py"
    version.write_text(re.sub(r'(?<=__version__ = ").*(?=")', "99.0", version.read_text()))
    (code / "migrations" / "versions" / "9999_next.py").write_text(NEWER.replace("HEAD", head()))
    return code.parent


def test_two_versions_on_one_database(at_work: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = str(newer_version(tmp_path))
    place, archive = at_work, at_work.archive
    for number in range(12):
        place.store.create_run(f"run_{number}", Wire.V2)
        place.written[f"run_{number}"] = []
    old = place.fleet.started(direct=True)
    place.write()
    for run_id in place.written:
        archive.request(run_id)
    wait_for(place.stored, WAIT_S, "the old version reads")
    monkeypatch.setitem(place.operator.variables, "PYTHONPATH", newer)
    place.walk("Upgrade")
    assert archive.value("SELECT version_num FROM tailrace.alembic_version") == "9999"
    place.write()
    wait_for(place.stored, WAIT_S, "the old version goes on")
    with monkeypatch.context() as patched:
        patched.setattr(workers_of, "launch", workers_of.in_a_new_interpreter)
        new = place.fleet.started(direct=True, PYTHONPATH=newer)
    query = "SELECT count(*) FROM tailrace.streams s JOIN tailrace.workers w ON w.id = s.worker_id WHERE w.pid = %s"
    wait_for(lambda: archive.value(query, new.pid) > 0, WAIT_S, "the new version reads too")
    assert archive.value(query, old.pid) > 0
    assert Path(f"/proc/{new.pid}/environ").read_bytes().count(newer.encode()) == 1
    place.write()
    wait_for(place.stored, WAIT_S, "both go on")
    old.terminate()
    assert old.wait(30) == 0
    place.write()
    place.finish()
    assert archive.value("SELECT count(*) FROM tailrace.segments WHERE next_count <> 7") == 0


# --- what else can happen


def test_rotating_the_key(at_work: Scene, tmp_path: Path) -> None:
    place, new = at_work, "tr_prod_another"
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[default]\nkey = "{DEFAULT_KEY}"\n')
    keys.chmod(0o600)
    place.fleet.started(direct=True, TRIGGER_SECRET_KEY="", TAILRACE_KEYS_FILE=str(keys))
    place.begin()
    place.upstream.app.router.default = create_app(place.store, api_key=new, timing=FAST).router.default  # type: ignore[attr-defined]
    place.operator.variables |= {"TAILRACE_KEYS_FILE": str(keys), "NEW_KEY": new, "TRIGGER_SECRET_KEY": ""}
    halted = "SELECT count(*) FROM tailrace.environments WHERE halted_at IS NOT NULL"
    wait_for(lambda: place.archive.value(halted) == 1, WAIT_S, "upstream takes the old key no more")
    place.walk("Rotate the key", 0)
    wait_for(lambda: place.archive.value(halted) == 0, WAIT_S, "the new one is used")
    place.walk("Rotate the key", 1)
    place.write()
    place.finish()


@contextmanager
def a_small_disk() -> Iterator[Path]:
    """A file system of its own, with a folder in which a server can have its files."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    with tempfile.TemporaryDirectory(prefix="tailrace-disk-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o755)
        mounting = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=0755", "tmpfs", name]
        if subprocess.run(mounting, check=False, capture_output=True).returncode != 0:
            pytest.skip("this root may not mount a file system")
        try:
            files, account = place / "postgres", unprivileged()
            files.mkdir()
            os.chown(files, account.uid, account.gid)
            yield files
        finally:
            subprocess.run(["umount", name], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def test_a_full_disk(tmp_path: Path, redis_url: str) -> None:
    with a_small_disk() as files, ephemeral_postgres(files) as server:
        upgrade(server.url())
        with made(server, tmp_path, server.url(), redis_url) as place:
            worker = place.fleet.started(direct=True)
            place.begin()
            ballast = files.parent / "ballast"
            with pytest.raises(OSError, match="No space left"):
                fill(ballast)

            def refused() -> bool:
                place.write(20, secrets.token_hex(5_000))
                return "flush_failed" in worker.said()

            wait_for(refused, WAIT_S, "no more can be stored", every_s=0.2)
            assert "No space left on device" in worker.said()
            assert "segments_" in place.walk("Disk full", 0)  # Postgres still answers
            ballast.unlink()
            wait_for(place.stored, WAIT_S, "there is room again")
            place.finish()
            assert worker.said().count("flush_failed") == 1
            place.walk("Disk full", 1)


def test_losing_redis_and_making_room(primary: Postgres, tmp_path: Path) -> None:
    with (
        ephemeral_valkey(tmp_path / "valkey") as broker,
        a_database(primary, "tailrace") as url,
        made(primary, tmp_path, url, broker.url()) as place,
    ):
        place.fleet.started(direct=True)
        place.begin()
        broker.kill()
        place.store.create_run("run_later", Wire.V2)
        place.written["run_later"] = []
        place.write()
        place.operator.variables["RUN_ID"] = "run_later"
        place.walk("Redis lost")
        wait_for(place.stored, WAIT_S, "without Redis")
        said = place.walk("Disk full", 0) + place.walk("Capacity and cost")
        assert re.search(r"runs\b.*chunks", said)
        assert "segments_" in said
        broker.start()
        place.finish()


def test_the_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what the page says, and its costs are those of docs/scaling.md."""
    [code, printed] = [each.text for each in blocks("Capacity and cost") if each.language != "sh"]
    exec(compile(code, "docs/operate.md", "exec"), {})
    assert capsys.readouterr().out == printed
    costs = (ROOT / "docs" / "scaling.md").read_text()
    for cost in ("110 µs worker, 18 µs Postgres", "3.4 ms worker, 1.2 ms Postgres", "| 47 kB;", "34 µs Postgres a chunk",
                 "28 B a chunk is what", "196 B at 250 ms", "0.04 USD for a core-hour", "0.12 USD per GB and month"):  # fmt: skip
        assert cost in costs
        for figure in re.findall(r"\d[\d.]*", cost.partition(" at 250")[0]):
            assert figure in code + PRICES.search(PAGE.read_text())[0]  # type: ignore[index]


PRICES = re.compile(r"0\.04 USD for a core-hour.*0\.12 USD", re.DOTALL)

WALKED = {
    "Deploy": 2,
    "Upgrade": 1,
    "Scale": 1,
    "Capacity and cost": 3,
    "Back up and restore": 2,
    "Go back to a moment": 4,
    "Fail over to a replica": 4,
    "Move to another database": 2,
    "Rotate the key": 2,
    "Redis lost": 1,
    "Disk full": 2,
}
"""How many blocks these tests and `tests/unit/test_deploy_files.py` (Scale) know under each heading."""


def test_no_block_was_passed_over() -> None:
    found = [each.heading for each in blocks()]
    assert {heading: found.count(heading) for heading in found} == WALKED
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_operate*.py"))
    walked = re.findall(r'\.walk\("([^"]+)"', tests)
    assert set(walked) == set(WALKED) - {"Scale"}
