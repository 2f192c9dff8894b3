-- Ids of runs and streams. They grow with time, so that a time filter is a range of ids.

-- Ids that grow with time: milliseconds of the database's clock, then 20 bits of a sequence. 2^20 ids in one
-- millisecond would be needed for two equal ones.
CREATE SEQUENCE tailrace.id_bits AS bigint MINVALUE 0 MAXVALUE 1048575 CYCLE;

CREATE FUNCTION tailrace.next_id() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint << 20) | nextval('tailrace.id_bits');

COMMENT ON FUNCTION tailrace.next_id() IS
    'A new id: milliseconds since 1970 << 20 | 20 bits of a sequence. Ids are ordered by time.';


-- The lowest id that a stream created at this time can have: a time filter becomes a range of ids, which prunes
-- partitions. (Immutable in truth: the epoch of a timestamptz does not depend on the session's time zone.)
CREATE FUNCTION tailrace.stream_id_at(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN floor(extract(epoch FROM p_at) * 1000)::bigint << 20;

COMMENT ON FUNCTION tailrace.stream_id_at(timestamptz) IS
    'The lowest id of streams (and runs) that were created at or after this time.';
