-- What the tokens cost that providers counted, by hour and task, at one price for a million of each kind: AI SDK (`finish`),
-- OpenAI (chat completions and Responses) and Anthropic. It unpacks the streams of that time.
SELECT
    date_trunc('hour', c.emitted_at) AS time, coalesce(s.task_identifier, 'unknown') AS task,
    sum(n.input) AS input_tokens, sum(n.output) AS output_tokens,
    coalesce(sum(n.input), 0) / 1e6 * :input_price + coalesce(sum(n.output), 0) / 1e6 * :output_price AS cost
FROM tailrace.stream_stats s
JOIN tailrace.chunks c ON c.stream_id = s.stream_id
CROSS JOIN LATERAL (
    SELECT
        CASE c.type
            WHEN 'finish' THEN coalesce(
                c.data_jsonb #>> '{totalUsage,inputTokens}', c.data_jsonb #>> '{messageMetadata,usage,inputTokens}')
            WHEN 'message_start' THEN c.data_jsonb #>> '{message,usage,input_tokens}'
            WHEN 'response.completed' THEN c.data_jsonb #>> '{response,usage,input_tokens}'
            ELSE CASE WHEN c.type IS NULL THEN c.data_jsonb #>> '{usage,prompt_tokens}' END
        END AS input,
        CASE c.type
            WHEN 'finish' THEN coalesce(
                c.data_jsonb #>> '{totalUsage,outputTokens}', c.data_jsonb #>> '{messageMetadata,usage,outputTokens}')
            WHEN 'message_delta' THEN c.data_jsonb #>> '{usage,output_tokens}'
            WHEN 'response.completed' THEN c.data_jsonb #>> '{response,usage,output_tokens}'
            ELSE CASE WHEN c.type IS NULL THEN c.data_jsonb #>> '{usage,completion_tokens}' END
        END AS output
) said
CROSS JOIN LATERAL (
    SELECT
        CASE WHEN said.input ~ '^[0-9]{1,9}$' THEN said.input::bigint END AS input,
        CASE WHEN said.output ~ '^[0-9]{1,9}$' THEN said.output::bigint END AS output
) n
WHERE s.stream_id >= tailrace.stream_id_at(:'from'::timestamptz - interval '1 day')
  AND c.emitted_at >= :'from'::timestamptz AND c.emitted_at < :'to'::timestamptz
  AND (:'environment' = '' OR s.environment = :'environment')
  AND (n.input IS NOT NULL OR n.output IS NOT NULL)
GROUP BY 1, 2
ORDER BY 1, 2;
