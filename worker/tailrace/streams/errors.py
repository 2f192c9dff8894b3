"""Every error that reading a stream raises.

::

    StreamError                  base: catch this for "whatever went wrong"
    ├─ StreamTimeout             silent for too long, and the run is not over (also a TimeoutError)
    ├─ StreamAborted             the signal was aborted
    ├─ ChunkTypeError            a chunk is not of the stream's type
    ├─ RetriesExhausted          upstream failed again and again
    ├─ StreamRefused             upstream refuses the key or the request: another attempt would not help
    ├─ NotConfigured             no key, no database, or a value that can't be right
    ├─ NotArchived               ``source="archive"``, and the archive does not know the run
    └─ SomeStreamsFailed         of several streams; says which, and has what the others brought

The message of an error says what happened and, where there is one, what to do. None holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailrace.errors import WorkerError

__all__ = [
    "ChunkTypeError",
    "NotArchived",
    "NotConfigured",
    "RetriesExhausted",
    "SomeStreamsFailed",
    "StreamAborted",
    "StreamError",
    "StreamRefused",
    "StreamTimeout",
]


class StreamError(WorkerError):
    """Reading a stream failed."""


class StreamTimeout(StreamError, TimeoutError):
    """Nothing came for longer than ``timeout_in_seconds``, and the run is not over."""

    def __init__(self, message: str | None = None, *, timeout_in_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.timeout_in_seconds = timeout_in_seconds


class StreamAborted(StreamError):
    """The read was aborted.

    ``reason`` is what was given to `AbortController.abort`, None when nothing was.
    """

    def __init__(self, message: str | None = None, *, reason: object = None) -> None:
        super().__init__(message)
        self.reason = reason


class ChunkTypeError(StreamError, ValueError):
    """A chunk is not of the stream's type.

    ``key`` and ``index`` say which, ``raw`` is its text as it was sent. A stream that is read alone can be read on
    after it; of several, that one is not read on, and `SomeStreamsFailed` has this among its errors.
    """

    def __init__(self, message: str | None = None, *, key: str, index: int, raw: str, generation: int = 0) -> None:
        super().__init__(message)
        self.key = key
        self.index = index
        self.raw = raw
        self.generation = generation


class RetriesExhausted(StreamError):
    """Upstream failed again and again.

    ``attempts`` is how often it was tried since the last progress, ``status`` the HTTP status of the last answer (None:
    there was none). The last failure is ``__cause__``.
    """

    def __init__(self, message: str | None = None, *, attempts: int, status: int | None = None) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.status = status


class StreamRefused(StreamError):
    """Upstream refuses the key or the request.

    ``status``: 401 or 403 for the key, 400, 409, 410 or 422 for the request.
    """

    def __init__(self, message: str | None = None, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotConfigured(StreamError):
    """Something that is needed to read is not set. The message names the variable."""


class NotArchived(StreamError):
    """The archive does not know the run."""


class SomeStreamsFailed(StreamError):
    """Some of several streams failed; the others were read to their end.

    ``errors`` has the failed ones by key. ``results`` (from `gather`) has what each stream brought, in the order in
    which they were asked for, up to the failure where there was one.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Mapping[str, StreamError],
        results: Sequence[list[Any]] = (),
    ) -> None:
        super().__init__(message)
        self.errors = dict(errors)
        self.results = list(results)


def unexpected(error: Exception) -> StreamError:
    """Make our error of one that nobody foresaw: who waits for a reader must learn of it."""
    failed = StreamError(f"{type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed
