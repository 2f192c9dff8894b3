"""What a subscription to a run gives. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict

from tailrace.model import RunView
from tailrace.streams.client import Client
from tailrace.streams.errors import ChunkTypeError
from tailrace.streams.session import Options, Session, Typed, Value
from tailrace.streams.signals import AbortSignal
from tailrace.streams.steps import Retry


@dataclass(frozen=True, slots=True)
class Run:
    """A run as upstream has it. ``status`` is the name that Trigger.dev's API uses; times are aware UTC.

    ``stream_keys``: the streams that it has written so far.
    """

    id: str
    status: str
    task_identifier: str | None
    tags: tuple[str, ...]
    stream_keys: tuple[str, ...]
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    is_completed: bool

    @property
    def is_success(self) -> bool:
        return self.status == "COMPLETED"

    @property
    def is_cancelled(self) -> bool:
        return self.status == "CANCELED"

    @property
    def is_failed(self) -> bool:
        """Over, and neither a success nor cancelled."""
        return self.is_completed and not self.is_success and not self.is_cancelled


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """The run has changed, or is seen for the first time."""

    run: Run
    type: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """A chunk has come; ``type`` is the key of its stream. ``run`` is as it was last seen."""

    type: str
    chunk: Any
    index: int
    run: Run


Update = RunUpdate | StreamUpdate


class SubscribeOptions(TypedDict, total=False):
    """What can be said about a subscription; see `tailrace.streams.ReadOptions`."""

    signal: AbortSignal | None
    client: Client | None
    max_retries: int | None
    on_retry: Callable[[Retry], object] | None


def run_of(view: RunView) -> Run:
    """Make the public form of what the feed said."""
    return Run(
        id=view.run_id,
        status=view.status,
        task_identifier=view.task_identifier,
        tags=view.tags,
        stream_keys=view.stream_keys,
        created_at=view.created_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
        is_completed=view.terminal,
    )


def session_of(
    run_id: str,
    options: SubscribeOptions,
    streams: tuple[Typed[Any], ...] | None = None,
    on_invalid: Callable[[ChunkTypeError], object] | None = None,
) -> Session:
    """Begin a subscription. ``streams``: the types of some of the run's streams; None: the run alone."""
    return Session(
        run_id,
        streams or (),
        Options(timeout_in_seconds=None, on_invalid=on_invalid, **options),
        several=True,
        subscribed=True,
        discover=streams is not None,
    )


class Updates:
    """Turns what a session gives into updates."""

    def __init__(self) -> None:
        self._run: Run | None = None

    def of(self, given: Value | RunView) -> Update:
        if isinstance(given, RunView):
            self._run = run_of(given)
            return RunUpdate(self._run)
        assert self._run is not None, "streams are known from the run"
        return StreamUpdate(given.key, given.value, given.chunk.chunk_index, self._run)
