-- Tells which signals are in the inbox of an instance. Above `read committed` the engine asks it
-- twice for an instance that ends, in the step's transaction and on another connection.
--
-- Invariant: if the second answer has others, the step's snapshot is older than these. It could not
-- empty the inbox, and the step runs again.
--
-- $1 bigint: the instance
select coalesce(pg_catalog.array_agg(s.id), '{}') from gen_durable.signals s where s.target_id = $1::bigint
