"""Become another account, keep at most the right to reach our own files, and turn into a server.

Run as a program of its own, because what it does cannot be done safely between fork and exec of a process with
threads, and by its path, because it must not import what it does not need::

    python launcher.py ACCOUNT SIGNAL DIRECTORY PROGRAM [ARGUMENT]…

``ACCOUNT`` is ``uid:gid`` or ``-`` (stay who we are). ``SIGNAL`` is the signal to get when the starting process ends,
0 for none (Linux only). ``DIRECTORY`` is where the server keeps its files.

Root's files may lie behind directories that only root can enter: a clone under ``/root``, for instance. Widening them
is out of the question, so on Linux the server keeps one *ambient capability*: to search any directory, or, where root
has not got that one (Docker's default) or where the program itself is root's alone, to pass over file permissions.
It is kept only when something is really out of reach.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import NoReturn

REFUSED = 78  # EX_CONFIG: the exit code that says "not possible here"
NOT_A_PROGRAM = 126  # as shells have it

# linux/prctl.h and linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def main(arguments: list[str]) -> NoReturn:
    """Do what the module says; exit with `REFUSED` when it cannot be done."""
    account, signal_number, directory, program, *rest = arguments
    try:
        if account != "-":
            uid, gid = (int(part) for part in account.split(":"))
            become(uid, gid, directory, program)
        if int(signal_number) and sys.platform == "linux":
            end_with_parent(int(signal_number))
    except OSError as error:
        give_up(error, REFUSED)
    try:
        os.execv(program, [program, *rest])
    except OSError as error:
        give_up(error, NOT_A_PROGRAM)


def give_up(error: OSError, exit_code: int) -> NoReturn:
    """Exit with one line on stderr."""
    print(f"launcher: {error}", file=sys.stderr, flush=True)  # noqa: T201 (stderr is the server's log)
    os._exit(exit_code)


def become(uid: int, gid: int, directory: str, program: str) -> None:
    """Change to an account for good.

    Raises:
        OSError: not allowed, or the account would not reach the server's files.
    """
    linux = sys.platform == "linux"
    for_everybody = bool(Path(program).stat().st_mode & 0o001)
    if linux:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)  # from here the capabilities are only permitted, not effective: access is the account's own
    reaches_program = os.access(program, os.X_OK)
    if reaches_program and os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        if linux:
            _set_capabilities(0)
        return
    if not linux:
        raise PermissionError(f"account {uid} cannot reach {directory}")
    _keep_one_capability(for_everybody, reaches_program)


def _keep_one_capability(program_is_for_everybody: bool, program_is_reached: bool) -> None:
    permitted = _permitted()
    # Searching directories is the smaller right, but it does not extend to running a program that is root's alone.
    useful = (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if program_is_for_everybody else (CAP_DAC_OVERRIDE,)
    capability = next((number for number in useful if permitted & (1 << number)), None)
    if capability is None:
        raise PermissionError("root has no capability here that reaches its own files (CAP_DAC_OVERRIDE)")
    if not program_is_reached:
        # Postgres asks access(2) about its programs, which leaves capabilities out of account for all but root unless
        # this bit is set; it stays set in the server. Linux, fs/open.c, access_override_creds().
        if not permitted & (1 << CAP_SETPCAP):
            raise PermissionError("the programs lie in a private directory, and root lacks CAP_SETPCAP here")
        _set_capabilities((1 << capability) | (1 << CAP_SETPCAP))
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    _set_capabilities(1 << capability)
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def end_with_parent(signal_number: int) -> None:
    """Ask the kernel for a signal when the process that started us is gone."""
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it went before we asked
        os._exit(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, first: int, second: int = 0) -> None:
    word = ctypes.c_ulong
    _check(_libc().prctl(option, word(first), word(second), word(0), word(0)), f"prctl {option}")


def _permitted() -> int:
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Set * 2)()
    _check(_libc().capget(ctypes.byref(header), sets), "capget")
    return int(sets[0].permitted)


def _set_capabilities(mask: int) -> None:
    """Have these capabilities and no others; all of them are below 32."""
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Set * 2)()
    sets[0] = _Set(mask, mask, mask)
    _check(_libc().capset(ctypes.byref(header), sets), "capset")


if __name__ == "__main__":
    main(sys.argv[1:])
