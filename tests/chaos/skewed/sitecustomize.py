"""On a worker's PYTHONPATH: its wall clock is wrong by CHAOS_CLOCK_S, and jumps there and back every few seconds."""

import datetime
import os
import time
from typing import Any

_real, _off_s, _began = time.time, float(os.environ.get("CHAOS_CLOCK_S", "0")), time.monotonic()
_RealDatetime = datetime.datetime


def _now() -> float:
    return _real() + (_off_s if int(time.monotonic() - _began) % 6 >= 3 else 0.0)


class _AnyDatetime(type):
    """What C code made is one too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _RealDatetime)


class _Datetime(_RealDatetime, metaclass=_AnyDatetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _RealDatetime.fromtimestamp(_now(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return _RealDatetime.fromtimestamp(_now(), datetime.UTC).replace(tzinfo=None)


if _off_s:
    time.time = _now
    datetime.datetime = _Datetime  # type: ignore[misc]
