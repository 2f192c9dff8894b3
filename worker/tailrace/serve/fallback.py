"""Who answers what the store does not have."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from tailrace.serve.admission import Admitted
from tailrace.serve.connections import Connections
from tailrace.serve.runs import Run


class Fallback(Protocol):
    """Answers what the store does not have."""

    async def takes(self, run_id: str, stream_key: str | None, run: Run | None, admitted: Admitted) -> bool:
        """Return whether it answers for this run, or this stream of it. ``run``: as the store has it."""
        ...

    async def answer(self, request: Request, admitted: Admitted, connections: Connections) -> Response:
        """Return its answer."""
        ...
