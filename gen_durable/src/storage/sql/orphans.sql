-- Rows that the worker $1 holds and does not know of ($2 are those that it knows): a claim whose
-- answer was lost with its connection, or an outcome that was given up.
select i.id, i.fsm, i.fsm_version, i.attempt, i.revision, i.partition_key
from gen_durable.instances i
where i.locked_by = $1 and i.id <> all ($2::bigint[])
order by i.id
limit $3
