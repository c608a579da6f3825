-- Rows that the worker $1 holds and does not know of ($2 are those that it knows): a claim whose
-- answer was lost with its connection, or an outcome that was given up.
--
-- What the worker holds is found first, and by the lease index whatever the statistics say: a range is
-- taken for few rows, where `=` is taken for all if one worker held all when they were taken.
with held as materialized (
    select i.id, i.fsm, i.fsm_version, i.revision, i.partition_key
    from gen_durable.instances i
    where i.locked_by between $1 and $1
)
select h.id, h.fsm, h.fsm_version, h.revision, h.partition_key
from held h
where h.id <> all ($2::bigint[])
order by h.id
limit $3
