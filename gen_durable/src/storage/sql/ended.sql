-- What the instances $1 have come to; a row for each that exists.
select i.id,
       i.fsm,
       i.status,
       i.step,
       i.attempt,
       i.failures,
       case when i.status = 'done' then i.result::text end as result,
       case when i.status = 'failed' then i.last_error end as reason
from gen_durable.instances i
where i.id = any ($1::bigint[])
