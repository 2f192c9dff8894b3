"""The archive behind the routes: a `tailrace.serve.store.Store` over Postgres, for one environment each."""

from tailrace.serve.archive.archive import Archive
from tailrace.serve.archive.store import ArchiveStore

__all__ = ["Archive", "ArchiveStore"]
