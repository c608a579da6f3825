-- Finds what rows have owed for a minute, and no engine has done. The doctor runs it.
--
-- Invariant: it examines at most a thousand rows, those with the lowest ids.
--
-- reports, keys, answers: the numbers of the rows that owe a report, the release of their partition
--                         key, and the answer to their cancel
select pg_catalog.count(*) filter (where n.owes & 1 = 1) as reports,
       pg_catalog.count(*) filter (where n.owes & 2 = 2) as keys,
       pg_catalog.count(*) filter (where n.owes & 4 = 4) as answers,
       pg_catalog.count(*) as count,
       (pg_catalog.array_agg(n.id order by n.id))[1:5] as ids
from (
    select i.id, i.owes, i.updated_at
    from gen_durable.instances i
    where i.owes is not null
    order by i.id
    limit 1001
) as n
where n.updated_at < gen_durable.now() - interval '1 minute'
having pg_catalog.count(*) > 0
