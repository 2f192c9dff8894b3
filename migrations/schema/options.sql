-- What a request may set for its run.

-- Why these options can't be meant; null: they can. The rule and its ranges are those of worker/tailrace/arguments.py,
-- and a test compares the two.
CREATE FUNCTION tailrace.options_problem(p_options json) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    v_name  text;
    v_value json;
    v_low   int;
    v_high  int;
    v_unit  text;
BEGIN
    IF json_typeof(p_options) <> 'object' THEN
        RETURN 'options must be an object';
    END IF;
    FOR v_name, v_value IN SELECT o.key, o.value FROM json_each(p_options) o LOOP
        SELECT l.low, l.high, l.unit INTO v_low, v_high, v_unit
        FROM (VALUES
            ('batch_max_chunks', 1, 2000, 'chunks'),
            ('batch_max_bytes', 1024, 1048576, 'bytes'),
            ('batch_max_age_ms', 1, 60000, 'milliseconds')
        ) AS l (name, low, high, unit)
        WHERE l.name = v_name;
        IF NOT FOUND THEN
            RETURN format('there is no option ''%s''', left(v_name, 80));
        END IF;
        -- The text first: no other number, and none that is larger than an int, is cast.
        IF json_typeof(v_value) <> 'number' OR v_value::text !~ '^[0-9]{1,9}$'
            OR v_value::text::int NOT BETWEEN v_low AND v_high
        THEN
            RETURN format('%s must be a whole number, %s to %s %s', v_name,
                trim(to_char(v_low, '9,999,999')), trim(to_char(v_high, '9,999,999')), v_unit);
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION tailrace.options_problem(json) IS
    'Says what is wrong with the options of a request (batch_max_chunks, batch_max_bytes, batch_max_age_ms); null: nothing.';
