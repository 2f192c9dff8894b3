-- Runs that failed upstream, runs whose streams hold an error or a failed tool call, and runs of which something is or may
-- be missing here.
SELECT
    coalesce(r.task_identifier, 'unknown') AS task, count(*) AS runs,
    count(*) FILTER (WHERE r.status IN ('FAILED', 'CRASHED', 'SYSTEM_FAILURE', 'TIMED_OUT', 'EXPIRED')) AS failed,
    count(*) FILTER (WHERE EXISTS (
        SELECT FROM tailrace.stream_stats s
        WHERE s.environment = r.environment AND s.run_id = r.run_id
          AND s.chunk_types && ARRAY['error', 'tool-output-error', 'tool-input-error']
    )) AS with_error_chunks,
    count(*) FILTER (WHERE r.verdict NOT IN ('complete', 'open', 'pruned')) AS incomplete
FROM tailrace.run_overview r
WHERE coalesce(r.created_at, r.requested_at) >= {{from}}::timestamptz
  AND coalesce(r.created_at, r.requested_at) < {{to}}::timestamptz
  [[AND r.environment = {{environment}}]]
GROUP BY 1
ORDER BY failed DESC, with_error_chunks DESC, runs DESC;
