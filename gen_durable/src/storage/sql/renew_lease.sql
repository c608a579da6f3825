-- Renews the lease of a worker. The thread that keeps the lease runs it. It changes no row if the
-- worker was removed.
--
-- $1 bigint: the worker
-- $2 bigint: the lease in microseconds from now, by the database's clock
update gen_durable.workers
set lease_expires_at = gen_durable.clock() + $2 * interval '1 microsecond'
where id = $1
