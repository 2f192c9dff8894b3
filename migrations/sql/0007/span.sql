-- The first and the last change of a compacted segment whose chunks have several; null for null.
CREATE FUNCTION tailrace.span_of_changes(p_change_ids bigint[]) RETURNS int8range
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT int8range(min(c), max(c), '[]') FROM unnest(p_change_ids) c);
