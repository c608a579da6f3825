-- Tells the newest signal in the inbox of an instance; 0 if it is empty. Above `read committed` the
-- engine asks it twice for an instance that ends, in the step's transaction and on another
-- connection.
--
-- Invariant: if the answers differ, the step's snapshot is older than a signal. It could not empty
-- the inbox, and the step runs again.
--
-- $1 bigint: the instance
select coalesce(pg_catalog.max(s.id), 0) from gen_durable.signals s where s.target_id = $1::bigint
