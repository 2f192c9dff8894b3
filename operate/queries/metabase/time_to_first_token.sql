-- From the start of the run to the first chunk with text: half of the streams, and nineteen of twenty, had it by then.
SELECT
    date_trunc('hour', s.first_chunk_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY s.first_text_s) AS median_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY s.first_text_s) AS p95_s,
    count(*) AS streams
FROM tailrace.stream_stats s
WHERE s.stream_id >= tailrace.stream_id_at({{from}}::timestamptz - interval '1 day')
  AND s.first_chunk_at >= {{from}}::timestamptz AND s.first_chunk_at < {{to}}::timestamptz
  [[AND s.environment = {{environment}}]]
  AND s.first_text_s IS NOT NULL
GROUP BY 1, 2
ORDER BY 1, 2;
