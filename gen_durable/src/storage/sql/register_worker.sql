-- Registers a new worker, with its lease and its process, and returns its id. An engine runs it at
-- its start.
--
-- Invariant: an id is never used again.
--
-- $1 text:   the name of the worker
-- $2 bigint: the lease in microseconds from now
-- $3 text[]: the queues that it serves
-- $4 int[]:  the steps that it runs at once in each of them
-- $5 text[]: the machines that it runs
-- $6 int[]:  their versions
-- $7 text:   the host of its process, or null
-- $8 bigint: the process's number there
-- $9 text:   the version of the library
insert into gen_durable.workers (
    name, lease_expires_at, lease_ttl, queues, slots, fsms, fsm_versions, host, pid, library
)
values (
    $1, gen_durable.clock() + $2::bigint * interval '1 microsecond', $2::bigint, $3::text[],
    $4::int[], $5::text[], $6::int[], $7::text, $8::bigint, $9::text
)
returning id
