"""What the environment sets: variables that are none, settings that contradict each other, the keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tailrace.cli.checks.finding import Finding, fine, note, problem
from tailrace.cli.exits import Exit
from tailrace.cli.output import shown
from tailrace.wire.keeping import V1_FORGETTING_S

if TYPE_CHECKING:
    from tailrace.config.settings import Settings

PINGS_S = 20.0
"""Upstream is silent for up to 15 s between two pings (protocol §1)."""

MISTYPED = problem(
    "variable-mistyped",
    "settings",
    "{name} is no setting, so nothing follows it",
    "A name that is nearly that of a setting. Its default holds instead.",
    "Did you mean {meant}?",
    Exit.USAGE,
)
UNKNOWN = note(
    "variable-unknown",
    "settings",
    "{name} is no setting, so nothing follows it",
    "It begins like a setting. Kubernetes sets such variables for a service called tailrace.",
)
WRONG = problem(
    "settings-wrong",
    "settings",
    "{reason}",
    "A setting is missing, has a wrong value, or contradicts another. Workers refuse to start with it.",
    "Set the variable that is named; docs/settings.md has what is allowed.",
    Exit.USAGE,
)
TWO_KEYS = note(
    "key-unused",
    "settings",
    "TAILRACE_KEYS_FILE and {variable} are both set: the file counts, the variable does not",
    "Whoever changes the variable to rotate a key changes nothing.",
    "Take {variable} away.",
)
FILE_READABLE = note(
    "keys-file-readable",
    "settings",
    "anybody on this machine may read {file}",
    "It holds secret keys.",
    "Take that from others (chmod o-r), unless it is a container's.",
)
SHORT_READS = problem(
    "read-timeout-short",
    "settings",
    "TAILRACE_READ_TIMEOUT_SECONDS is {seconds:g}, and upstream may be silent for 15 s between two pings",
    "Sound connections are cut and opened again, again and again; a stream that is silent looks stuck.",
    "Leave it at 45.",
    Exit.USAGE,
)
LATE_CHECK_VAIN = note(
    "late-check-vain",
    "settings",
    "TAILRACE_LATE_CHECK_SECONDS is {seconds:g}, and upstream forgets a v1 stream a day after its last writer",
    "The last look at a sealed run finds nothing of v1 any more, so what was written late is lost.",
    "Leave it at 21600.",
)
RETENTION_EARLY = note(
    "retention-before-late-check",
    "settings",
    "TAILRACE_RETENTION_DAYS is {days}: streams are dropped before the late check ({seconds:g} s) is made",
    "The last look at a sealed run is for nothing.",
    "Keep them for longer, or look earlier (TAILRACE_LATE_CHECK_SECONDS).",
)
FILES = problem(
    "open-files",
    "machine",
    "{allowed} open files are allowed, and {slots} slots may need {needed}",
    "Each stream takes a socket. Beyond the limit no stream can be opened, nor a connection to Postgres.",
    "Raise the hard limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile), or set TAILRACE_SLOTS to less.",
)
FILES_SOFT = note(
    "open-files-soft",
    "machine",
    "{allowed} open files are allowed at first, and {slots} slots may need {needed}",
    "`tailrace worker` raises its limit by itself, as far as the hard limit lets it; Celery's command does not.",
    "Start workers with `tailrace worker`, or raise the soft limit (ulimit -Sn).",
)
KEY_SET = fine("key-set", "settings", "a key is set; environment {environment}")
FILE_READ = fine("keys-file-read", "settings", "{file} has the keys of {count}: {names}")


def variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Look for variables that begin like settings and are none."""
    from tailrace.config.unknown import unknown_variables

    for name, meant in unknown_variables(environ):
        yield UNKNOWN.found(name=shown(name)) if meant is None else MISTYPED.found(name=shown(name), meant=meant)


def settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Read the settings and the keys as a worker does."""
    from tailrace.config.access import KEY_VARIABLES
    from tailrace.config.keys import accesses, readable_by_others
    from tailrace.config.settings import load
    from tailrace.config.urls import first_set
    from tailrace.errors import BadSettings

    try:
        given = load(environ)
        names = sorted(accesses(given))
    except BadSettings as error:
        yield WRONG.found(reason=error)
        return
    if given.keys_file is None:
        yield KEY_SET.found(environment=names[0])
    else:
        yield FILE_READ.found(file=given.keys_file, count=len(names), names=", ".join(names))
        if (variable := first_set(environ, KEY_VARIABLES)) is not None:
            yield TWO_KEYS.found(variable=variable)
        if readable_by_others(given.keys_file):
            yield FILE_READABLE.found(file=given.keys_file)
    yield from _contradictions(given)


def _contradictions(given: Settings) -> Iterator[Finding]:
    """What each setting allows by itself, and what makes no sense beside the others or beside upstream."""
    if given.read_timeout_seconds < PINGS_S:
        yield SHORT_READS.found(seconds=given.read_timeout_seconds)
    if given.late_check_seconds >= V1_FORGETTING_S:
        yield LATE_CHECK_VAIN.found(seconds=given.late_check_seconds)
    if given.retention_days is not None and given.late_check_seconds > given.retention_days * 86_400:
        yield RETENTION_EARLY.found(days=given.retention_days, seconds=given.late_check_seconds)


def open_files(slots: int) -> Iterator[Finding]:
    """Compare the limits of open files of this process, which a worker started beside it has too, with the slots."""
    import resource

    from tailrace.cli.worker import SPARE_FILES

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = slots + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        yield FILES.found(allowed=hard, slots=slots, needed=needed)
    elif soft != resource.RLIM_INFINITY and soft < slots:
        yield FILES_SOFT.found(allowed=soft, slots=slots, needed=needed)
