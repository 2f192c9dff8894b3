"""Options of a request as JSON, and what is wrong with them. Python and SQL have the rule; both are tested with this."""

from __future__ import annotations

CHUNKS = "batch_max_chunks must be a whole number, 1 to 2,000 chunks"
BYTES = "batch_max_bytes must be a whole number, 1,024 to 1,048,576 bytes"
AGE = "batch_max_age_ms must be a whole number, 1 to 60,000 milliseconds"
NO_OBJECT = "options must be an object"

OPTIONS: list[tuple[str, str | None]] = [
    ("{}", None),
    ('{"batch_max_chunks": 1, "batch_max_bytes": 1024, "batch_max_age_ms": 1}', None),
    ('{"batch_max_chunks": 2000, "batch_max_bytes": 1048576, "batch_max_age_ms": 60000}', None),
    ('{"batch_max_chunks": 0}', CHUNKS),
    ('{"batch_max_chunks": -5}', CHUNKS),
    ('{"batch_max_chunks": 2001}', CHUNKS),
    ('{"batch_max_chunks": true}', CHUNKS),
    ('{"batch_max_chunks": 5.0}', CHUNKS),
    ('{"batch_max_chunks": 1e2}', CHUNKS),
    ('{"batch_max_bytes": "abc"}', BYTES),
    ('{"batch_max_bytes": "4096"}', BYTES),
    ('{"batch_max_bytes": null}', BYTES),
    ('{"batch_max_bytes": 1023}', BYTES),
    ('{"batch_max_bytes": 1048577}', BYTES),
    ('{"batch_max_bytes": [4096]}', BYTES),
    ('{"batch_max_age_ms": 60001}', AGE),
    ('{"batch_max_age_ms": 0}', AGE),
    (f'{{"batch_max_age_ms": 1{"0" * 400}}}', AGE),
    ('{"batch_max_age_ms": {}}', AGE),
    ('{"batch_max_chunks": 5, "batch_max_chunk": 5}', "there is no option 'batch_max_chunk'"),
    ('{"": 5}', "there is no option ''"),
    (f'{{"{"x" * 5_000}": 5}}', f"there is no option '{'x' * 80}'"),
    ("[1]", NO_OBJECT),
    ("5", NO_OBJECT),
    ('"batch_max_chunks"', NO_OBJECT),
    ("null", NO_OBJECT),
]
