-- What a clock that ran ahead and was set back leaves behind: moments that have not come yet.

-- Move every moment that is yet to come, of what is still at work, back by as much as the clock went back; returns the
-- seconds, 0 when it did not. It shows in a lease, of the living or the dead, that ends later than a term from now. What
-- happened is then no later than now, and what is due no later than it would have been.
CREATE FUNCTION tailrace.follow_clock() RETURNS double precision
LANGUAGE plpgsql AS $$
DECLARE
    back interval;
BEGIN
    -- One process does it, once: the others find leases that end in time.
    PERFORM pg_advisory_xact_lock(hashtextextended('tailrace.follow_clock', 0));
    SELECT max(w.expires_at - w.lease_s * interval '1 second') - now() INTO back FROM tailrace.workers w;
    IF back IS NULL OR back < interval '1 second' THEN
        RETURN 0;
    END IF;
    UPDATE tailrace.runs r SET
        next_watch_at = CASE WHEN r.next_watch_at > now() THEN r.next_watch_at - back ELSE r.next_watch_at END,
        late_check_at = CASE WHEN r.late_check_at > now() THEN r.late_check_at - back ELSE r.late_check_at END,
        sealed_at = CASE WHEN r.sealed_at > now() THEN least(now(), r.sealed_at - back) ELSE r.sealed_at END,
        requested_at = least(now(), r.requested_at),
        terminal_at = CASE WHEN r.terminal_at > now() THEN now() ELSE r.terminal_at END,
        keys_read_at = CASE WHEN r.keys_read_at > now() THEN now() ELSE r.keys_read_at END,
        listed_at = CASE WHEN r.listed_at > now() THEN now() ELSE r.listed_at END,
        troubled_at = CASE WHEN r.troubled_at > now() THEN now() ELSE r.troubled_at END
    WHERE r.state IN ('requested', 'watched') OR r.late_check_at > now() OR r.sealed_at > now();
    UPDATE tailrace.streams s SET
        next_attempt_at = CASE WHEN s.next_attempt_at > now() THEN s.next_attempt_at - back ELSE s.next_attempt_at END,
        hinted_until = CASE WHEN s.hinted_until > now() THEN s.hinted_until - back ELSE s.hinted_until END,
        swept_at = CASE WHEN s.swept_at > now() THEN now() ELSE s.swept_at END,
        troubled_at = CASE WHEN s.troubled_at > now() THEN now() ELSE s.troubled_at END,
        stuck_at = CASE WHEN s.stuck_at > now() THEN now() ELSE s.stuck_at END,
        last_chunk_at = CASE WHEN s.last_chunk_at > now() THEN now() ELSE s.last_chunk_at END
    WHERE s.state IN ('pending', 'active', 'parked');
    UPDATE tailrace.outbox o SET next_attempt_at = o.next_attempt_at - back
    WHERE o.sent_at IS NULL AND o.next_attempt_at > now();
    UPDATE tailrace.backfills b SET
        next_page_at = CASE WHEN b.next_page_at > now() THEN b.next_page_at - back ELSE b.next_page_at END,
        leased_until = CASE WHEN b.leased_until > now() THEN b.leased_until - back END,
        troubled_at = CASE WHEN b.troubled_at > now() THEN now() ELSE b.troubled_at END
    WHERE b.state = 'running';
    UPDATE tailrace.discoveries d SET
        next_look_at = least(now(), d.next_look_at),
        next_scan_at = least(now(), d.next_scan_at),
        covered_to = CASE WHEN d.covered_to > now() THEN least(now(), d.covered_to - back) ELSE d.covered_to END;
    UPDATE tailrace.environments e SET
        halted_at = CASE WHEN e.halted_at > now() THEN now() ELSE e.halted_at END,
        probed_at = CASE WHEN e.probed_at > now() THEN now() ELSE e.probed_at END
    WHERE e.halted_at IS NOT NULL;
    UPDATE tailrace.tallied t SET taken_at = t.taken_at - back WHERE t.taken_at > now();
    UPDATE tailrace.verifications v SET held_until = v.held_until - back WHERE v.held_until > now();
    UPDATE tailrace.schedules c SET last_at = now() WHERE c.last_at > now();
    UPDATE tailrace.workers w SET expires_at = least(w.expires_at, now() + w.lease_s * interval '1 second');
    RETURN extract(epoch FROM back);
END
$$;

COMMENT ON FUNCTION tailrace.follow_clock() IS
    'Makes due again what would wait because the clock ran ahead and was set back; returns by how many seconds.';
