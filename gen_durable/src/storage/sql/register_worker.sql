-- Registers a new worker, with its lease, and returns its id. An engine runs it at its start.
--
-- Invariant: an id is never used again.
--
-- $1 text:   the name of the worker
-- $2 bigint: the lease in microseconds from now
-- $3 text[]: the queues that it serves
insert into gen_durable.workers (name, lease_expires_at, queues)
values ($1, gen_durable.clock() + $2 * interval '1 microsecond', $3::text[])
returning id
