"""The bucket of the rate limit."""

from __future__ import annotations

import json

from tests.upstream.rate_limit import Bucket, RateLimit


def test_the_rate_limit_is_refilled_in_steps_and_tells_when() -> None:
    now = 1000.0
    bucket = Bucket(RateLimit(burst=3, refill=2, interval_s=10), lambda: now)
    assert [bucket.take().remaining for _ in range(3)] == [2, 1, 0]
    refused = bucket.take()
    assert (refused.allowed, refused.headers["x-ratelimit-reset"]) == (False, "1010000")
    assert json.loads(refused.problem(1_004_500))["secondsUntilReset"] == 6
    now = 1010.0
    assert [bucket.take().allowed for _ in range(3)] == [True, True, False]
    now = 1100.0
    assert bucket.take().remaining == 2
