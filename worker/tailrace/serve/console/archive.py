"""What the pages ask the archive, through a few connections of their own: readers of streams never wait for a page."""

from __future__ import annotations

from tailrace.arguments import checked_name
from tailrace.errors import NotFound, TerminalError
from tailrace.serve.archive.threads import Threads
from tailrace.store.audit import Action, Audit
from tailrace.store.contents import Part, StreamPlace, read_part
from tailrace.store.engine import create_engine, end
from tailrace.store.figures import Figures
from tailrace.store.fleet import FleetView
from tailrace.store.overview import Overview
from tailrace.store.runs import Runs
from tailrace.store.search import RunSearch
from tailrace.store.statements import refusing
from tailrace.store.viewing import Viewing

CONNECTIONS = 3
"""To Postgres, opened when pages are looked at: people look at few at once, and each of them asks for milliseconds."""


class ConsoleArchive:
    """Belongs to the loop that serves. Close it there."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=0, application_name="tailrace console")
        self._threads = Threads(CONNECTIONS)
        self.run = self._threads.run
        self.search = RunSearch(self._engine)
        self.overview = Overview(self._engine)
        self.viewing = Viewing(self._engine)
        self.fleet = FleetView(self._engine)
        self.figures = Figures(self._engine)
        self.audit = Audit(self._engine)

    def act(self, who: str, key_id: int | None, environment: str, run_id: str, action: Action) -> str:
        """Do something to a run, and note who had it done, before and after; return what came of it. Blocks.

        Raises:
            TerminalError: it was refused, which is noted.
            StoreUnavailable: Postgres did not answer; what came of it is noted by nobody.
        """
        checked_name("The run's id", run_id)
        with refusing():
            row = self.audit.begin(who, key_id, environment, run_id, action)
        try:
            with refusing():
                outcome = self._done(Runs(self._engine, environment), run_id, action)
        except TerminalError as error:
            with refusing():
                self.audit.end(row, f"refused: {error}")
            raise
        with refusing():
            self.audit.end(row, outcome)
        return outcome

    def _done(self, runs: Runs, run_id: str, action: Action) -> str:
        if action is Action.INGEST:
            runs.request(run_id, None, {}, 0)
            return "asked for"
        number = runs.cancel(run_id) if action is Action.CANCEL else runs.retry(run_id)
        if number is None:
            raise NotFound(f"The archive has no run {run_id}.")
        return f"{number} streams {'stopped' if action is Action.CANCEL else 'are read again'}"

    def part(self, place: StreamPlace, generation: int, first: int, most: int, full_bytes: int) -> Part | None:
        """Read on in a stream, as `contents.read_part` does. Blocks."""
        with refusing(), self._engine.connect() as connection:
            return read_part(connection, place, generation, first, most, full_bytes)

    def close(self) -> None:
        """Close the connections, after what is under way."""
        self._threads.close()
        end(self._engine)
