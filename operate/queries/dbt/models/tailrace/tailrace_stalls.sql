{{ config(materialized='table') }}
SELECT
    date_trunc('hour', s.first_chunk_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    count(*) FILTER (WHERE s.longest_stall_s > 10) AS stalled, count(*) AS streams,
    max(s.longest_stall_s) AS longest_s
FROM {{ source('tailrace', 'stream_stats') }} s
WHERE s.stream_id >= tailrace.stream_id_at('{{ var("tailrace_from", "2000-01-01") }}'::timestamptz - interval '1 day')
  AND s.first_chunk_at >= '{{ var("tailrace_from", "2000-01-01") }}'::timestamptz AND s.first_chunk_at < '{{ var("tailrace_to", "infinity") }}'::timestamptz
  {% if var('tailrace_environment', '') %}AND s.environment = '{{ var("tailrace_environment") }}'{% endif %}
GROUP BY 1, 2
