-- Lets one engine at a time declare its limits and schedules. A transaction runs it before
-- declare.sql, so that the snapshot of that statement is younger than the lock: it sees all that
-- earlier holders have declared.
select pg_catalog.pg_advisory_xact_lock(5300)
