-- Renews the lease of the worker $1 for $2 microseconds from now.
update gen_durable.workers
set lease_expires_at = gen_durable.clock() + $2 * interval '1 microsecond'
where id = $1
