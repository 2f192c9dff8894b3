-- Streams that paused for more than ten seconds between two chunks, beside all streams, and the longest pause.
SELECT
    date_trunc('hour', s.first_chunk_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    count(*) FILTER (WHERE s.longest_stall_s > 10) AS stalled, count(*) AS streams,
    max(s.longest_stall_s) AS longest_s
FROM tailrace.stream_stats s
WHERE s.stream_id >= tailrace.stream_id_at(:'from'::timestamptz - interval '1 day')
  AND s.first_chunk_at >= :'from'::timestamptz AND s.first_chunk_at < :'to'::timestamptz
  AND (:'environment' = '' OR s.environment = :'environment')
GROUP BY 1, 2
ORDER BY 1, 2;
