-- A new worker with a lease of $2 microseconds, which serves the queues $3.
insert into gen_durable.workers (name, lease_expires_at, queues)
values ($1, gen_durable.clock() + $2 * interval '1 microsecond', $3::text[])
returning id
