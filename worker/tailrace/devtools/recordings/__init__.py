"""The recorded runs that come with Tailrace: what `tailrace replay` and the demonstration play. `make` writes them."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent


def bundled_recordings() -> list[Path]:
    """Return the files, in the order of their names."""
    return sorted(DIRECTORY.glob("*.jsonl"))
