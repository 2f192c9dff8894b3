"""The Celery worker that `tailrace worker` becomes."""

from pathlib import Path

import pytest

from tailrace.cli.worker import LogLevel, Pool, celery_command, refuse_hidden_package
from tailrace.errors import BadSettings


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.parametrize(
    ("pool", "slots", "reserve", "concurrency"),
    [
        (Pool.GEVENT, 1000, 8, 1008),
        (Pool.THREADS, 4, 8, 8),  # the worker takes at most half for its reserve: four are left, as asked
        (Pool.PREFORK, 1, 8, 2),
        (Pool.SOLO, 1, 8, 1),
        (Pool.GEVENT, 10, 0, 10),
    ],
)
def test_readers_get_the_slots_that_were_asked_for(pool: Pool, slots: int, reserve: int, concurrency: int) -> None:
    command = celery_command(pool, slots, reserve, LogLevel.INFO)
    assert option(command, "-P") == pool.value
    assert option(command, "-c") == str(concurrency)
    kept = min(reserve, concurrency // 2)
    assert pool is Pool.SOLO or concurrency - kept == slots


def test_each_worker_has_a_name_of_its_own_and_our_queue() -> None:
    one, two = (celery_command(Pool.GEVENT, 1, 1, LogLevel.WARNING) for _ in range(2))
    assert option(one, "-n") != option(two, "-n")
    assert option(one, "-Q") == "tailrace"
    assert option(one, "-A") == "tailrace.tasks"
    assert option(one, "-l") == "WARNING"


def test_another_package_of_our_name_in_the_folder_is_refused(tmp_path: Path) -> None:
    refuse_hidden_package(tmp_path)
    (tmp_path / "tailrace").mkdir()
    refuse_hidden_package(tmp_path)
    (tmp_path / "tailrace" / "__init__.py").touch()
    with pytest.raises(BadSettings, match="hides"):
        refuse_hidden_package(tmp_path)


def test_our_own_checkout_is_a_good_folder() -> None:
    refuse_hidden_package(Path(__file__).parents[3])
