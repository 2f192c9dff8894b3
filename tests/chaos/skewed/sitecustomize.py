"""On a worker's PYTHONPATH: its wall clock is wrong by CHAOS_CLOCK_S, and jumps there and back every few seconds."""

import os
import time

_real, _off_s, _began = time.time, float(os.environ.get("CHAOS_CLOCK_S", "0")), time.monotonic()

if _off_s:
    time.time = lambda: _real() + (_off_s if int(time.monotonic() - _began) % 6 >= 3 else 0.0)
