-- Everything that 0007 made, newest first.
DROP INDEX tailrace.segments_changes_idx;
DROP FUNCTION tailrace.span_of_changes(bigint[]), tailrace.parts_of_stream(bigint, text[]);
DROP TRIGGER runs_forgotten ON tailrace.runs;
CREATE TRIGGER runs_forgotten BEFORE INSERT ON tailrace.runs
FOR EACH ROW EXECUTE FUNCTION tailrace.check_not_forgotten();
