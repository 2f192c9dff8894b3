{{ config(materialized='table') }}
SELECT
    date_trunc('hour', s.first_chunk_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY s.first_text_s) AS median_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY s.first_text_s) AS p95_s,
    count(*) AS streams
FROM {{ source('tailrace', 'stream_stats') }} s
WHERE s.stream_id >= tailrace.stream_id_at('{{ var("tailrace_from", "2000-01-01") }}'::timestamptz - interval '1 day')
  AND s.first_chunk_at >= '{{ var("tailrace_from", "2000-01-01") }}'::timestamptz AND s.first_chunk_at < '{{ var("tailrace_to", "infinity") }}'::timestamptz
  {% if var('tailrace_environment', '') %}AND s.environment = '{{ var("tailrace_environment") }}'{% endif %}
  AND s.first_text_s IS NOT NULL
GROUP BY 1, 2
