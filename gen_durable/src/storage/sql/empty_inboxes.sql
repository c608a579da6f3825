-- Empties the inboxes of instances that this transaction has ended. The flusher runs it after
-- commit.sql.
--
-- Invariant: no signal stays in the inbox of an ended instance. The rows are locked since
-- commit.sql, and this statement's snapshot is younger than that lock. It shows each signal that
-- was delivered before the lock. A later delivery finds that its target has ended. The snapshot of
-- commit.sql is older than its own locks, so it may miss signals.
--
-- $1 bigint[]: the instances
delete from gen_durable.signals s
where s.target_id = any ($1::bigint[])
