"""A finding, and the kinds there are. No finding shows a secret: what others said in it is redacted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tailrace.cli.exits import Exit, advice_for, exit_for
from tailrace.errors import WorkerError
from tailrace.redaction import redact

__all__ = ["Finding", "Kind", "Severity", "fine", "made", "note", "problem"]


class Severity(StrEnum):
    """How one finding is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``name``: its subject. ``code``: which kind of finding it is, a word that does not change. ``todo``: what to do
    about it. ``exit_code``: what a problem ends with.
    """

    name: str
    code: str
    severity: Severity
    says: str
    todo: str | None = None
    exit_code: int = Exit.OK


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding. ``says`` and ``todo`` have names in braces for what `found` is given; ``means`` is why it
    matters, for docs/doctor.md."""

    code: str
    subject: str
    severity: Severity
    says: str
    means: str
    todo: str | None
    exit_code: Exit

    def found(self, **what: object) -> Finding:
        """Return a finding of this kind."""
        says, todo = redact(self.says.format(**what)), self.todo and redact(self.todo.format(**what))
        return Finding(self.subject, self.code, self.severity, says, todo, self.exit_code)


def problem(code: str, subject: str, says: str, means: str, todo: str, exit_code: Exit = Exit.FAILED) -> Kind:
    """Declare what keeps Tailrace from doing its work, or loses something."""
    return Kind(code, subject, Severity.PROBLEM, says, means, todo, exit_code)


def note(code: str, subject: str, says: str, means: str, todo: str | None = None) -> Kind:
    """Declare what may be meant so, and somebody should know."""
    return Kind(code, subject, Severity.NOTE, says, means, todo, Exit.OK)


def fine(code: str, subject: str, says: str) -> Kind:
    """Declare what says that a thing is as it should be."""
    return Kind(code, subject, Severity.OK, says, "", None, Exit.OK)


def made(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Return the findings of a check; an error that no kind was made for is a finding too, and ends the check."""
    try:
        yield from check()
    except WorkerError as error:
        yield Finding(subject, "failed", Severity.PROBLEM, str(error), advice_for(error), exit_for(error))
