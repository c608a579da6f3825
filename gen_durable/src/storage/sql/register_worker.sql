-- A new worker with a lease of $2 microseconds.
insert into gen_durable.workers (name, lease_expires_at)
values ($1, clock_timestamp() + $2 * interval '1 microsecond')
returning id
