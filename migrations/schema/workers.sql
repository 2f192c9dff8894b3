-- Workers, whose lives are the leases' lives.

-- One worker process. A stream is leased while the row of its worker has not expired by the database's clock.
CREATE TABLE tailrace.workers (
    id         uuid PRIMARY KEY,
    host       text NOT NULL,
    pid        int NOT NULL,
    pool       text NOT NULL,
    slots      int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    lease_s    double precision NOT NULL -- the term: a lease ends no later than this from now
) WITH (fillfactor = 50);
