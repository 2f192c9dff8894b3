"""Under gevent, nothing of Celery's family may wait in a way that stops the whole process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.argv = ["celery", "-A", "tailrace.tasks", "worker", "-P", "gevent"]
import celery
celery.maybe_patch_concurrency()
import time, kombu.utils.functional, kombu.transport.redis
from tailrace.tasks.patching import mend
print(mend())
assert hasattr(kombu.transport.redis.MultiChannelPoller.get, "__wrapped__")
assert kombu.utils.functional.sleep is time.sleep
assert mend() == []
"""


def test_kombu_waits_for_a_lost_broker_without_stopping_the_readers() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
