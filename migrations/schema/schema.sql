-- The schema of the archive as it stands today, by subject and in the order in which one needs another. Everything is
-- in schema `tailrace`, which has to exist, and every name is written with it. Migrations bring an archive here; a test
-- compares a migrated one with this.
\ir ids.sql
\ir environments.sql
\ir access_keys.sql
\ir audit.sql
\ir workers.sql
\ir options.sql
\ir runs.sql
\ir streams.sql
\ir segments.sql
\ir partitions.sql
\ir checkpoints.sql
\ir losses.sql
\ir chunk_json.sql
\ir chunks.sql
\ir text.sql
\ir verdicts.sql
\ir overviews.sql
\ir messages.sql
\ir changes.sql
\ir requests.sql
\ir outbox.sql
\ir compaction.sql
\ir verification.sql
\ir retention.sql
\ir exports.sql
\ir tallies.sql
\ir forgetting.sql
\ir backfills.sql
\ir schedules.sql
\ir clock.sql
\ir accounts.sql
