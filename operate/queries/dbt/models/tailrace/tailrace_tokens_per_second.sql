{{ config(materialized='table') }}
SELECT
    date_trunc('hour', s.first_chunk_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    sum(s.text_chunks) / nullif(sum(s.duration_s), 0) AS tokens_per_second, sum(s.text_chunks) AS tokens
FROM {{ source('tailrace', 'stream_stats') }} s
WHERE s.stream_id >= tailrace.stream_id_at('{{ var("tailrace_from", "2000-01-01") }}'::timestamptz - interval '1 day')
  AND s.first_chunk_at >= '{{ var("tailrace_from", "2000-01-01") }}'::timestamptz AND s.first_chunk_at < '{{ var("tailrace_to", "infinity") }}'::timestamptz
  {% if var('tailrace_environment', '') %}AND s.environment = '{{ var("tailrace_environment") }}'{% endif %}
  AND s.text_chunks > 0
GROUP BY 1, 2
