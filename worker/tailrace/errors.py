"""Every error Tailrace raises on purpose.

::

    WorkerError
    ├─ TransientError          another attempt may help
    │  ├─ SourceUnavailable    upstream refused, failed or broke off
    │  ├─ StreamStalled        connected, but silent for longer than the read timeout
    │  └─ StoreUnavailable     Postgres did not answer
    ├─ TerminalError           the same input will fail again
    │  ├─ Unauthorized         the key is missing, wrong or not allowed
    │  ├─ NotFound             upstream does not know it (yet)
    │  ├─ RequestRefused       upstream calls our request wrong
    │  ├─ MalformedRecord      not the documented shape
    │  │  └─ Contradiction     not what upstream said before
    │  ├─ BadArgument          what was asked for can't be meant
    │  ├─ UnknownEnvironment   the archive has no environment of this name
    │  └─ BadSettings          a setting is missing or wrong
    └─ LeaseError              someone else is at work: stop quietly
       └─ LeaseLost            another worker took the stream over

The message of an error says what happened and, where there is one, what to do. None holds a secret: what others said
is redacted when the error is made.
"""

from tailrace.redaction import redact


class WorkerError(Exception):
    """Something Tailrace expected could go wrong, did."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(redact(message) if message else (type(self).__doc__ or "").partition("\n")[0])


class TransientError(WorkerError):
    """Another attempt may help."""


class SourceUnavailable(TransientError):
    """Upstream refused, failed or broke off.

    ``retry_after_s`` is the wait that upstream asked for, when it did.
    ``status`` is the HTTP status, None when no answer came.
    """

    def __init__(self, message: str | None = None, *, status: int | None = None, retry_after_s: float | None = None):
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class StreamStalled(TransientError):
    """Upstream was silent for longer than the read timeout, pings included: the connection is dead."""


class StoreUnavailable(TransientError):
    """Postgres did not answer."""


class TerminalError(WorkerError):
    """The same input will fail again."""


class Unauthorized(TerminalError):
    """Upstream refused the key.

    ``status`` is 401 (missing, wrong, expired) or 403 (valid, not allowed).
    """

    def __init__(self, message: str | None = None, *, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


class NotFound(TerminalError):
    """Upstream does not know this run or stream. Right after a trigger that can change."""


class RequestRefused(TerminalError):
    """Upstream calls our request wrong (400, 409, 410, 422)."""

    def __init__(self, message: str | None = None, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class MalformedRecord(TerminalError):
    """Upstream sent something that is not the documented shape.

    ``field`` is the part of it that is wrong, one of few words; empty when it can't be told.
    """

    def __init__(self, message: str | None = None, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Contradiction(MalformedRecord):
    """Upstream, or something on the way, contradicts what it said before. The next connection shows which is true."""


class BadArgument(TerminalError, ValueError):
    """What was asked for can't be meant: an argument has a wrong type, is out of its range or has an unknown name."""


class UnknownEnvironment(TerminalError):
    """The archive has no environment of this name: no worker ever served it."""


class BadSettings(TerminalError):
    """A setting is missing or wrong. The message names the variable."""


class BrokerIsCluster(BadSettings):
    """The Redis is a Redis Cluster, which Celery can't use as a broker."""


class LeaseError(WorkerError):
    """Someone else is at work on the stream."""


class LeaseLost(LeaseError):
    """Another worker has taken the stream over: nothing more may be written with this token."""
