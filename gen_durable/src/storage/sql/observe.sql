-- Makes a worker the observer, if nobody else is, or keeps it so. The observer is the engine whose
-- metrics show the database's view. The maintenance service `observer` runs it.
--
-- Invariant: a worker is replaced only after its lease, by the database's clock. If two
-- statements run at the same moment, one locks the row. The other one skips it, or sees what the
-- first has committed.
--
-- $1 bigint: the worker
-- $2 bigint: the length of the lease, in microseconds
with free as materialized (
    -- 1. The row, if it is the worker's own or its lease is over.
    select o.id
    from gen_durable.observer o
    where o.worker = $1 or o.lease_expires_at <= gen_durable.now()
    for no key update skip locked
)
-- 2. The lease. A row comes back if the worker has it.
update gen_durable.observer o
set worker = $1,
    lease_expires_at = gen_durable.now() + $2 * interval '1 microsecond'
from free f
where o.id = f.id
returning true as observes
