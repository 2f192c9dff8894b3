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
