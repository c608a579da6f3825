-- Finds rows that are claimed in the name of workers that do not exist, and that no reaper has
-- taken for a minute. The doctor runs it.
--
-- Invariant: one descent of the lease index for each of a thousand workers, and at most a thousand
-- rows of each that it finds.
with recursive holders (locked_by) as (
    -- 1. The workers in whose names rows are claimed: one descent for each.
    (
        select i.locked_by from gen_durable.instances i
        where i.locked_by is not null order by i.locked_by limit 1
    )
    union all
    select beyond.locked_by
    from holders h
    cross join lateral (
        select i.locked_by from gen_durable.instances i
        where i.locked_by > h.locked_by order by i.locked_by limit 1
    ) as beyond
),
known as materialized (
    -- 2. The first thousand of them.
    select h.locked_by from holders h limit 1000
)
-- 3. Their rows, if the worker does not exist. `between` keeps the planner from an estimate by
--    statistics, as in lost_claims.sql.
select k.locked_by as worker, held.count, held.ids
from known k
cross join lateral (
    select pg_catalog.count(*) as count, (pg_catalog.array_agg(n.id order by n.id))[1:5] as ids
    from (
        select i.id, i.updated_at
        from gen_durable.instances i
        where i.locked_by between k.locked_by and k.locked_by
        order by i.locked_by
        limit 1001
    ) as n
    where n.updated_at < gen_durable.now() - interval '1 minute'
) as held
where held.count > 0
  and not exists (select from gen_durable.workers w where w.id = k.locked_by)
order by k.locked_by
