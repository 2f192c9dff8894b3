-- Which streams an export has written, and where: a row follows its file, so an export resumes and writes nothing
-- twice. No foreign key: the file stays when retention drops the stream.
CREATE TABLE tailrace.exported (
    target      text NOT NULL,
    stream_id   bigint NOT NULL,
    run         bigint NOT NULL,
    path        text NOT NULL,
    chunk_count bigint NOT NULL,
    digest      bytea NOT NULL,
    exported_at timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz,
    CONSTRAINT exported_pkey PRIMARY KEY (target, stream_id)
);

CREATE INDEX exported_run_idx ON tailrace.exported (run);

-- The file that an export is at work on: noted before it is begun, gone when its rows are there. One that was cut off
-- may be there whole; it is removed, since what comes next may begin with another stream and so have another name.
CREATE TABLE tailrace.exporting (
    target text NOT NULL,
    path   text NOT NULL,
    CONSTRAINT exporting_pkey PRIMARY KEY (target, path)
);
