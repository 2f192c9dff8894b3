"""How many bytes a process may hold of what upstream sent and Postgres has not taken yet: one bound for all of it.

Two kinds of bytes count. *Unfinished* ones are those of events that have begun: only their own reader can free them, so
they may take half of the bound at most. *Whole* ones are the Writer's: they go by themselves when Postgres takes them,
and may take whatever the unfinished leave, so a half is always theirs. What finds no room waits, and is served first
come, first served.

Nobody waits for ever. One reader at a time is *let over*: it may go beyond the bound until its event is whole, so an
event larger than the bound gets through, and of many that hold a part and wait for more, one goes on. It must bring
something while others wait, or its connection is cut: what it had is freed, and read again later. The next is let over
when all is within the bound again. So what is held is never more than the bound and one event. That one counts twice,
as text and as bytes, while v1 holds it as a last line.

What is small costs no lock: below `FREE_BYTES` a reader's event is not counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FREE_BYTES = 65_536
"""Of each reader's unfinished event, not counted: as much as one read of its socket brings."""
PROGRESS_BYTES = 262_144
PROGRESS_S = 5.0
"""Who is let over brings so many bytes in this time, or goes: 52 kB/s, well below the slowest link that can follow."""
LOOK_S = 1.0
"""How often who waits looks whether it was interrupted, and whether who is let over brings something."""


class Room:
    """The bound, and who waits for room. Methods need the lock, ``changed``, held; those of `Share` take it."""

    def __init__(
        self, max_bytes: int, changed: threading.Condition | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``changed``: the lock, and what tells of every change; None: one of its own."""
        self.changed = changed or threading.Condition()
        self.max_bytes = max_bytes
        self.unfinished_bytes = 0
        self.whole_bytes = 0
        self._clock = clock
        self._growing: dict[Share, int] = {}  # wait for so many bytes more; the first that came first
        self._storing: dict[Share, int] = {}
        self._over: Share | None = None
        self._over_until = 0.0
        self._progress = 0

    def share(self) -> Share:
        """Return the share of one reader."""
        return Share(self)

    @property
    def held_bytes(self) -> int:
        return self.unfinished_bytes + self.whole_bytes

    @property
    def pressed(self) -> bool:
        """Something waits for the Writer, or it has half of what it may have: it had better commit what it has."""
        return bool(self._storing) or 2 * self.whole_bytes >= self._for_whole()

    # --- what is whole

    def store(self, share: Share, size_bytes: int) -> bool:
        """Count so many bytes as the Writer's, for the reader of ``share``; what its event took counts towards them.

        Returns:
            False when there is no room yet: it waits in the queue, and `is_stored` says when it has been counted.
        """
        if self._over is share:  # its event is whole
            self._over = None
        if (self._storing or not self._fits(share, size_bytes)) and share.held_bytes < size_bytes:
            self._storing[share] = size_bytes
            return False
        self._move(share, size_bytes)
        return True

    def is_stored(self, share: Share) -> bool:
        """Return whether what `store` put into the queue has been counted."""
        return share not in self._storing

    def forget(self, share: Share) -> None:
        """Take out of the queue what waits to be stored."""
        if self._storing.pop(share, None) is not None:
            self._serve()

    def give_back(self, size_bytes: int) -> None:
        """So many of the Writer's bytes are gone."""
        self.whole_bytes -= size_bytes
        self._serve()

    def _for_whole(self) -> int:
        return self.max_bytes - min(self.unfinished_bytes, self.max_bytes // 2)

    def _fits(self, share: Share, size_bytes: int) -> bool:
        """Return whether the Writer can take this. When it has nothing, it takes anything: else nobody ever could."""
        more = size_bytes - min(share.held_bytes, size_bytes)
        return self.whole_bytes == 0 or self.whole_bytes + more <= self._for_whole()

    def _move(self, share: Share, size_bytes: int) -> None:
        moved = min(share.held_bytes, size_bytes)
        share.held_bytes -= moved
        self.unfinished_bytes -= moved
        self.whole_bytes += size_bytes

    # --- what is not

    def grow(self, share: Share, more_bytes: int) -> None:
        """Count more bytes of an unfinished event. While there is no room it waits in the queue: see `grows`."""
        if share is self._over or (not self._growing and self._may_grow(share, more_bytes)):
            self._add(share, more_bytes)
        else:
            self._growing[share] = more_bytes
            self._serve()

    def grows(self, share: Share) -> bool:
        """Return whether it still waits to grow."""
        return share in self._growing

    def stay(self, share: Share) -> None:
        """It need not grow any more."""
        if self._growing.pop(share, None) is not None:
            self._serve()

    def set(self, share: Share, size_bytes: int) -> None:
        """Count what a reader has, less or more than before, without asking for room: its event is over."""
        self.unfinished_bytes += size_bytes - share.held_bytes
        share.held_bytes = size_bytes
        if self._over is share:
            self._over = None
        self._serve()

    def cut_idle(self) -> None:
        """Cut who is let over and brings nothing while others wait."""
        over = self._over
        if over is not None and self._clock() >= self._over_until:
            self._over = None
            over.cut()

    def _may_grow(self, share: Share, more_bytes: int) -> bool:
        """Return whether there is room, or this is the one to be let over."""
        fits = self.unfinished_bytes + more_bytes <= self.max_bytes // 2
        if fits and self.held_bytes + more_bytes <= self.max_bytes:
            return True
        if self._over is not None or self.held_bytes > self.max_bytes:
            return False
        self._over, self._progress = share, PROGRESS_BYTES
        return True

    def _add(self, share: Share, more_bytes: int) -> None:
        share.held_bytes += more_bytes
        self.unfinished_bytes += more_bytes
        if share is self._over:
            self._progress += more_bytes
            if self._progress >= PROGRESS_BYTES:
                self._progress, self._over_until = 0, self._clock() + PROGRESS_S

    # --- both

    def _serve(self) -> None:
        """Let in who waits, as far as there is room, in the order in which they came."""
        served = False
        while self._storing:
            share, size_bytes = next(iter(self._storing.items()))
            if not self._fits(share, size_bytes):
                break
            del self._storing[share]
            self._move(share, size_bytes)
            served = True
        while self._growing:
            share, more_bytes = next(iter(self._growing.items()))
            if not self._may_grow(share, more_bytes):
                break
            del self._growing[share]
            self._add(share, more_bytes)
            served = True
        if served:
            self.changed.notify_all()


class Share:
    """What one reader holds of an event that is not whole yet. For one thread, but for `interrupt`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._wake: Callable[[], None] = lambda: None
        self._interrupted = False
        self.was_cut = False
        self.held_bytes = 0

    def begin(self, wake: Callable[[], None]) -> None:
        """A connection begins. ``wake`` ends a read of it that waits; it must not wait itself."""
        self._wake = wake
        self._interrupted = self.was_cut = False

    def end(self) -> None:
        """The connection is over, and what it held is free."""
        if self.held_bytes or self._room.grows(self):
            with self._room.changed:
                self._room.stay(self)
                self._room.set(self, 0)

    def resize(self, size_bytes: int, kept_bytes: int = 0) -> bool:
        """Hold so much of an event; waits for room when that is more than before.

        ``kept_bytes``: what the event before takes as long as nothing follows it. Then there is no waiting: only
        reading on frees it.

        Returns:
            False when the wait was ended by `interrupt`, or the connection was cut.
        """
        wanted = kept_bytes + (size_bytes if size_bytes > FREE_BYTES else 0)
        if wanted == self.held_bytes:
            return True
        room = self._room
        with room.changed:
            if self.was_cut:
                return False
            if kept_bytes or wanted < self.held_bytes:
                room.set(self, wanted)
            else:
                room.grow(self, wanted - self.held_bytes)
            while room.grows(self):
                if self._interrupted:
                    room.stay(self)
                    return False
                room.cut_idle()
                room.changed.wait(LOOK_S)
        return True

    def interrupt(self) -> None:
        """End a wait for room, within `LOOK_S`. From any thread, whatever locks it holds."""
        self._interrupted = True

    def cut(self) -> None:
        """End the connection: others need the room. With the lock held."""
        self.was_cut = True
        self._wake()
