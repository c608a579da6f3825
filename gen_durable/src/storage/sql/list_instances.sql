-- Reads what a list shows of instances. Lists run it.
--
-- Invariant: one row for each instance that exists, and no state, result or payload. An error is
-- cut off after 300 characters.
--
-- $1 bigint[]: the instances
select i.id,
       i.fsm,
       i.fsm_version,
       i.status,
       i.step,
       i.attempt,
       i.queue,
       i.partition_key,
       i.unique_key,
       pg_catalog.left(i.last_error, 300) as last_error,
       (extract(epoch from case i.status
           when 'runnable' then i.eligible_at
           when 'awaiting_signal' then i.wake_at
       end) * 1000000)::bigint as due_at,
       (extract(epoch from i.inserted_at) * 1000000)::bigint as inserted_at,
       (extract(epoch from i.updated_at) * 1000000)::bigint as updated_at,
       (extract(epoch from i.finished_at) * 1000000)::bigint as finished_at
from gen_durable.instances i
where i.id = any ($1::bigint[])
