-- What a beat sends, where one runs.

-- An entry of a beat's schedule: when it last came to a worker, and how often it should.
CREATE TABLE tailrace.schedules (
    name    text PRIMARY KEY,
    every_s double precision NOT NULL,
    last_at timestamptz NOT NULL
) WITH (fillfactor = 50);
