"""Decode the run feed: what upstream says of a run, its status and its stream keys.

Facts (protocol §3, §5): every value is a string or null; ``status`` is a *database* name; ``realtimeStreams`` is a
Postgres array literal that can name a key twice; runs from before 4.1 keep their keys in ``metadata``'s ``$$streams``;
in the Electric format an update carries only the columns that changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.model import RunView
from tailrace.redaction import excerpt
from tailrace.wire.run_fields import BadRow, bad_row, is_key, moment, run_id, status, tags, text
from tailrace.wire.statuses import api_status, is_terminal

OLD_KEYS = "$$streams"

_COLUMNS = (
    *("friendlyId", "status", "realtimeStreams", "metadata", "taskIdentifier", "runTags"),
    *("createdAt", "startedAt", "completedAt"),
)
"""Of a row nothing else is kept: upstream names all of an environment's runs, most of which nobody asked for."""


ROWS_MAX = 250_000
"""Open runs of an environment that are kept, at a kilobyte each; with more, each is asked for alone."""
STRAYS_MAX = 1_000


class FeedRows:
    """The rows of a run feed, merged as they come. One that can't be read keeps no other from being read.

    A row is read once for each change of it. An answer that sends again what is known is all that there is (the native
    backend sends whole answers, not what changed): what it leaves out is not told of any more.
    """

    def __init__(self, wanted: Callable[[str], bool] = bool) -> None:
        """``wanted`` says of a run by its id whether it is kept after its end; of the others it is not."""
        self._wanted = wanted
        self._rows: dict[str, dict[str, Any]] = {}
        self._read: dict[str, RunView | BadRow] = {}  # what became of those that have not changed since
        self._changed: dict[str, None] = {}  # since `changes` was asked for
        self._named: dict[str, str] = {}  # keys of the rows that could be read, by run id
        self._strays: list[BadRow] = []  # messages that are no part of any row
        self._known: set[str] = set()  # rows, when a response began
        self._sent: set[str | None] = set()  # by it, as a whole
        self.up_to_date = False

    @property
    def told_of(self) -> Collection[str]:
        """The ids of the runs that can be read, as far as `changes` or `read` has read them."""
        return self._named.keys()

    def view(self, run_id: str) -> RunView:
        """Return a run of `told_of`."""
        view = self._read[self._named[run_id]]
        assert isinstance(view, RunView)
        return view

    def begin(self) -> None:
        """Begin one response."""
        self.up_to_date = False
        self._known, self._sent = set(self._rows), set()

    def merge(self, message: Any) -> None:
        """Merge one message of it; in their order."""
        try:
            self._sent.add(self._merge(message))
        except MalformedRecord as error:
            bad = bad_row(self._forget_row(message), "friendlyId", error)
            if len(self._strays) < STRAYS_MAX:
                self._strays.append(bad)

    def end(self) -> None:
        """End the response."""
        if self._known & self._sent:
            for key in self._known - self._sent:
                self._drop(key)
        self._known, self._sent = set(), set()

    def _merge(self, message: Any) -> str | None:
        """Merge one message; return the key of the row if it is a whole one."""
        if not isinstance(message, dict):
            raise MalformedRecord("a message of the run feed is no object", field="message")
        headers, key, value = message.get("headers", {}), message.get("key"), message.get("value")
        if not isinstance(headers, dict):
            raise MalformedRecord("a message of the run feed has no headers", field="headers")
        if headers.get("control") == "up-to-date":
            self.up_to_date = True
        elif headers.get("operation") == "delete":
            self._drop(str(key))
        elif isinstance(key, str) and isinstance(value, dict):
            self._take(key, _needed(value), whole=headers.get("operation") != "update")
            return key if headers.get("operation") == "insert" else None
        elif value is not None:
            raise MalformedRecord("a message of the run feed is no row of a run", field="value")
        return None

    def _take(self, key: str, columns: dict[str, Any], whole: bool) -> None:
        before = self._rows.get(key)
        if before is None and self._is_not_ours(columns, whole):
            return
        if before is None and len(self._rows) >= ROWS_MAX:
            raise SourceUnavailable(f"the run feed tells of more than {ROWS_MAX} runs that go on")
        row = {**(before or {}), **columns}
        if row != before or key not in self._read:
            self._rows[key] = row
            self._unread(key)
            self._changed[key] = None

    def _is_not_ours(self, columns: dict[str, Any], whole: bool) -> bool:
        """Return whether what comes of a row that is not kept is of none to be kept: one that was let go of, or is over
        and was never asked for."""
        run, named = columns.get("friendlyId"), columns.get("status")
        if not whole and run is None:
            return True
        return isinstance(named, str) and is_terminal(named) and isinstance(run, str) and not self._wanted(run)

    def _unread(self, key: str) -> None:
        view = self._read.pop(key, None)
        if isinstance(view, RunView) and self._named.get(view.run_id) == key:
            del self._named[view.run_id]

    def _drop(self, key: str) -> dict[str, Any] | None:
        self._unread(key)
        self._changed.pop(key, None)
        return self._rows.pop(key, None)

    def _forget_row(self, message: Any) -> Any:
        """Drop the row that a message was for, and return it: what it said of it is lost."""
        key = message.get("key") if isinstance(message, dict) else None
        return self._drop(key) if isinstance(key, str) else None

    def runs(self) -> list[RunView]:
        """Return the runs that can be read, in the order in which upstream named them first."""
        return self.read()[0]

    def read(self) -> tuple[list[RunView], list[BadRow]]:
        """Return the runs that can be read, and what can't: rows that are wrong, messages since that were none."""
        return self._results(self._rows)

    def changes(self) -> tuple[list[RunView], list[BadRow]]:
        """Return as `read` does what has changed since this was last called. What is over and not wanted goes."""
        changed, self._changed = self._changed, {}
        found = self._results(changed)
        for key in changed:
            view = self._read[key]
            if isinstance(view, RunView) and view.terminal and not self._wanted(view.run_id):
                self._drop(key)
        return found

    def _results(self, keys: Iterable[str]) -> tuple[list[RunView], list[BadRow]]:
        found = [self._result(key) for key in keys]
        strays, self._strays = self._strays, []
        return (
            [each for each in found if isinstance(each, RunView)],
            [*(each for each in found if isinstance(each, BadRow)), *strays],
        )

    def _result(self, key: str) -> RunView | BadRow:
        if key not in self._read:
            self._read[key] = view = _read_row(self._rows[key], "friendlyId", run_view)
            if isinstance(view, RunView):
                self._named[view.run_id] = key
        return self._read[key]


def _needed(value: dict[str, Any]) -> dict[str, Any]:
    """Return those columns of a row, or of a change of it, that are read. Metadata can be 256 kB a run."""
    kept = {name: value[name] for name in _COLUMNS if name in value}
    if isinstance(kept.get("metadata"), str):
        keys = _keys_of_old_runs(kept["metadata"])
        kept["metadata"] = json.dumps({OLD_KEYS: keys}) if keys else None
    return kept


def readable(
    rows: Iterable[Any], id_field: str, view: Callable[[dict[str, Any]], RunView]
) -> tuple[list[RunView], list[BadRow]]:
    """Read each row by itself; return those that can be read, in order, and what is wrong with the others."""
    read = [_read_row(row, id_field, view) for row in rows]
    return [row for row in read if isinstance(row, RunView)], [row for row in read if isinstance(row, BadRow)]


def _read_row(row: Any, id_field: str, view: Callable[[dict[str, Any]], RunView]) -> RunView | BadRow:
    try:
        if not isinstance(row, dict):
            raise MalformedRecord("a row is no object", field="row")
        return view(row)
    except MalformedRecord as error:
        return bad_row(row, id_field, error)


def run_view(row: dict[str, Any]) -> RunView:
    """Read one feed row.

    Raises:
        MalformedRecord: not the documented shape.
    """
    named = api_status(status(row, "status"))
    keys = [*_array(row, "realtimeStreams"), *_keys_of_old_runs(row.get("metadata"))]
    return RunView(
        run_id=run_id(row, "friendlyId"),
        status=named,
        terminal=is_terminal(named),
        stream_keys=tuple(dict.fromkeys(filter(is_key, keys))),
        task_identifier=text(row, "taskIdentifier"),
        tags=tags(_array(row, "runTags"), "runTags"),
        created_at=moment(row, "createdAt"),
        started_at=moment(row, "startedAt"),
        finished_at=moment(row, "completedAt"),
    )


def _array(row: dict[str, Any], field: str) -> list[str]:
    value = row.get(field)
    if not isinstance(value, str | None):
        raise MalformedRecord(f"{field} is no text: {excerpt(repr(value), 100)}", field=field)
    try:
        return array_literal(value or "{}")
    except MalformedRecord as error:
        raise MalformedRecord(f"{field}: {error}", field=field) from None


def array_literal(text: str) -> list[str]:
    """Read a one-dimensional Postgres array literal such as ``{ai,"odd \\"key\\""}``. Null elements are left out.

    Raises:
        MalformedRecord: not such a literal.
    """
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        raise MalformedRecord(f"not an array literal: {excerpt(text, 100)!r}")
    items: list[str] = []
    item: list[str] = []
    quoted = in_quotes = False
    inner = iter(text[1:-1])
    for char in inner:
        if char == "\\":
            item.append(next(inner, ""))
            quoted = True
        elif char == '"':
            in_quotes = not in_quotes
            quoted = True
        elif char == "," and not in_quotes:
            _close(items, item, quoted)
            item, quoted = [], False
        else:
            item.append(char)
    if in_quotes:
        raise MalformedRecord(f"not an array literal: {excerpt(text, 100)!r}")
    if item or quoted:
        _close(items, item, quoted)
    return items


def _close(items: list[str], item: list[str], quoted: bool) -> None:
    word = "".join(item)
    if quoted or word.upper() != "NULL":
        items.append(word)


def _keys_of_old_runs(metadata: Any) -> list[Any]:
    if not metadata or not isinstance(metadata, str):
        return []
    try:
        decoded = json.loads(metadata)
    except (ValueError, RecursionError):  # the run's own metadata: whatever is in it must not stop us
        return []
    keys = decoded.get(OLD_KEYS) if isinstance(decoded, dict) else None
    return keys if isinstance(keys, list) else []
