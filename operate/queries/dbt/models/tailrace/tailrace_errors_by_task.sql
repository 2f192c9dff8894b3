{{ config(materialized='table') }}
SELECT
    coalesce(r.task_identifier, 'unknown') AS task, count(*) AS runs,
    count(*) FILTER (WHERE r.status IN ('FAILED', 'CRASHED', 'SYSTEM_FAILURE', 'TIMED_OUT', 'EXPIRED')) AS failed,
    count(*) FILTER (WHERE EXISTS (
        SELECT FROM {{ source('tailrace', 'stream_stats') }} s
        WHERE s.environment = r.environment AND s.run_id = r.run_id
          AND s.chunk_types && ARRAY['error', 'tool-output-error', 'tool-input-error']
    )) AS with_error_chunks,
    count(*) FILTER (WHERE r.verdict NOT IN ('complete', 'open', 'pruned')) AS incomplete
FROM {{ source('tailrace', 'run_overview') }} r
WHERE coalesce(r.created_at, r.requested_at) >= '{{ var("tailrace_from", "2000-01-01") }}'::timestamptz
  AND coalesce(r.created_at, r.requested_at) < '{{ var("tailrace_to", "infinity") }}'::timestamptz
  {% if var('tailrace_environment', '') %}AND r.environment = '{{ var("tailrace_environment") }}'{% endif %}
GROUP BY 1
