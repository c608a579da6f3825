-- Gives the lease of the observer up, so that another engine gets it at its next look. A worker
-- runs it when it stops.
--
-- Invariant: the lease of another worker stays.
--
-- $1 bigint: the worker
update gen_durable.observer o
set worker = 0,
    lease_expires_at = gen_durable.now()
where o.worker = $1
