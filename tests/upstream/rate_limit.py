"""The rate limit on paths under ``/api``: one token bucket, and the headers that tell of it (protocol §4)."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.responses import Response

from tailrace.serve.answers import PROBLEM


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Upstream's defaults: a burst of 750, and 250 more every 10 s."""

    burst: int = 750
    refill: int = 250
    interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one request is told. ``reset_ms`` is epoch milliseconds; there is never a Retry-After."""

    allowed: bool
    limit: int
    remaining: int
    reset_ms: int

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(self.remaining),
            "x-ratelimit-reset": str(self.reset_ms),
        }

    def problem(self, now_ms: int) -> bytes:
        """The body of the 429."""
        return msgspec.json.encode(
            {
                "title": "Rate Limit Exceeded",
                "status": 429,
                "type": "https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/429",
                "detail": f"Rate limit exceeded {self.remaining}/{self.limit} requests remaining.",
                "reset": self.reset_ms,
                "limit": self.limit,
                "remaining": self.remaining,
                "secondsUntilReset": max(0, math.ceil((self.reset_ms - now_ms) / 1000)),
                "error": "Rate limit exceeded",
            },
        )


class Bucket:
    """The tokens that are left. Refilled at once at the end of each interval, as upstream's limiter does."""

    def __init__(self, limit: RateLimit, now_s: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._now_s = now_s
        self._tokens = limit.burst
        self._refilled_at_s = now_s()

    def take(self) -> Allowance:
        """Use one token up, if there is one."""
        limit = self._limit
        intervals = int((self._now_s() - self._refilled_at_s) / limit.interval_s)
        if intervals > 0:
            self._tokens = min(limit.burst, self._tokens + intervals * limit.refill)
            self._refilled_at_s += intervals * limit.interval_s
        allowed = self._tokens > 0
        self._tokens -= allowed
        reset_ms = int((self._refilled_at_s + limit.interval_s) * 1000)
        return Allowance(allowed, limit.burst, self._tokens, reset_ms)


async def limited(bucket: Bucket, now_ms: int, answer: Callable[[], Awaitable[Response]]) -> Response:
    """The answer with what is left of the bucket in its headers; a 429 when nothing is."""
    allowance = bucket.take()
    if not allowance.allowed:
        return Response(allowance.problem(now_ms), 429, {**PROBLEM, **allowance.headers})
    response = await answer()
    response.headers.update(allowance.headers)
    return response
