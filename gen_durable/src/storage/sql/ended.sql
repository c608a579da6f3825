-- Reads what instances have come to. Calls that wait for an end or look an instance up run it.
--
-- Invariant: one row for each instance that exists. Only a done instance has a result, and only a
-- failed or a cancelled one a reason.
--
-- $1 bigint[]: the instances
select i.id,
       i.fsm,
       i.status,
       i.step,
       i.attempt,
       i.failures,
       case when i.status = 'done' then i.result::text end as result,
       case when i.status in ('failed', 'cancelled') then i.last_error end as reason
from gen_durable.instances i
where i.id = any ($1::bigint[])
