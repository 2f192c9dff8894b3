"""Logs. Importing this configures nothing: the worker and the command line call `configure`.

The same log keys everywhere: ``run_id``, ``stream_key``, ``position``, ``lease_token``, ``attempt``. Events have names
in the past tense (``batch_committed``), one for each change of state; nothing for each chunk above debug. Numbers are
metrics (`tailrace.metrics`), not lines.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from tailrace.errors import WorkerError
from tailrace.redaction import HIDDEN, redact

__all__ = ["Failing", "configure"]

log = structlog.get_logger("tailrace")


# --- secrets

MAX_VALUE_CHARACTERS: Final = 20_000
"""A longer value is cut: nothing that long belongs in a log, and redacting takes time."""

_SECRET_KEYS: Final = frozenset(
    {"authorization", "password", "passwd", "secret", "secret_key", "access_token", "api_key", "public-access-token"}
)


def redact_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Redact every value of a log entry, the text of exceptions included. A structlog processor."""
    return {key: HIDDEN if key.lower() in _SECRET_KEYS else _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARACTERS:
            # Redacted before it is cut: half of a secret might not look like one.
            return f"{redact(value[: 2 * MAX_VALUE_CHARACTERS])[:MAX_VALUE_CHARACTERS]}... ({len(value)} characters)"
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact(str(key)): HIDDEN if str(key).lower() in _SECRET_KEYS else _redacted(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(each) for each in value]
    return _redacted(str(value))


# --- logs


def configure(log_format: str = "auto", log_level: str = "info", *, stream: TextIO | None = None) -> None:
    """Send our logs and those of libraries to stderr, through one formatter that redacts. A second call replaces it.

    Args:
        log_format: ``console``, ``json`` (one object a line) or ``auto``: console on a terminal, else json.
        log_level: ``debug``, ``info``, ``warning`` or ``error``, of our own logs. Libraries say less: warnings, and
            info only when ours is debug.
        stream: instead of stderr.
    """
    out = sys.stderr if stream is None else stream
    terminal = out.isatty()
    level = logging.getLevelNamesMapping()[log_level.upper()]
    libraries = logging.INFO if level <= logging.DEBUG else max(level, logging.WARNING)

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Exceptions become text first, without local variables, so that redacting reaches them.
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact_values,
    ]
    if log_format == "console" or (log_format == "auto" and terminal):
        colors = terminal and not os.environ.get("NO_COLOR")
        last.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback))
    else:
        last.append(structlog.processors.JSONRenderer(ensure_ascii=False))

    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(libraries)
    logging.getLogger("tailrace").setLevel(level)
    # SQLAlchemy names the logger of a pool for its class, which is one of ours.
    logging.getLogger("tailrace.store.engine").setLevel(libraries)
    logging.captureWarnings(True)

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # loggers made before this call follow it too
    )


# --- what fails again and again

CALM_S: Final = 10.0
"""So long nothing may have failed before trouble is over: at a limit (of connections, say) every other try succeeds."""


class Failing:
    """Swallows what work raises: a line in the log when it begins to fail or fails otherwise, one when that is over.

    It is over with the first success ``calm_s`` seconds after the last failure. `failed` and `succeeded` are for work
    whose errors are somebody else's to handle.
    """

    def __init__(
        self,
        what: str,
        whose: Mapping[str, str] = MappingProxyType({}),
        *,
        calm_s: float = CALM_S,
        clock: Callable[[], float] = time.monotonic,
        traced: bool = True,
    ) -> None:
        """The lines are ``<what>_failed`` and ``<what>_recovered``, with ``whose`` in them.

        ``traced``: what nobody has foreseen is logged with its traceback. Not where that could quote chunks.
        """
        self._what = what
        self._traced = traced
        self._calm_s = calm_s
        self._clock = clock
        self._log = log.bind(**whose)
        self._told: set[str] = set()  # the kinds of error, of the trouble that is not over
        self._failed_at = 0.0

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None:
            self.succeeded()
            return False
        if not isinstance(error, Exception):
            return False
        self.failed(error)
        return True

    def failed(self, error: Exception) -> None:
        """Tell of an error, unless one of its kind was told already in this trouble."""
        self._failed_at = self._clock()
        name = type(error).__name__
        if name not in self._told:
            self._told.add(name)
            traced = self._traced and not isinstance(error, WorkerError)
            said = str(error).partition("\n")[0]
            self._log.warning(
                f"{self._what}_failed", kind=name, error=said or name, exc_info=error if traced else False
            )

    def succeeded(self) -> bool:
        """Return whether there is no trouble, and tell so if there was one."""
        if self._told and self._clock() - self._failed_at >= self._calm_s:
            self._told.clear()
            self._log.info(f"{self._what}_recovered")
        return not self._told
