-- Tokens per second while streams were being written, and tokens in all, by hour and task. A chunk that adds text is about
-- one token.
SELECT
    date_trunc('hour', s.first_chunk_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    sum(s.text_chunks) / nullif(sum(s.duration_s), 0) AS tokens_per_second, sum(s.text_chunks) AS tokens
FROM tailrace.stream_stats s
WHERE s.stream_id >= tailrace.stream_id_at({{from}}::timestamptz - interval '1 day')
  AND s.first_chunk_at >= {{from}}::timestamptz AND s.first_chunk_at < {{to}}::timestamptz
  [[AND s.environment = {{environment}}]]
  AND s.text_chunks > 0
GROUP BY 1, 2
ORDER BY 1, 2;
