-- Finds limits that hold rows back for ever. No living worker declares the limit, or a run that
-- waits weighs more than its bounds admit. The doctor runs it.
--
-- Invariant: it examines the thousand buckets whose `wakes_at` is the earliest. It finds one bucket
-- for each of at most fifteen limits, and counts at most a thousand rows for each.
--
-- declared: true if a living worker declares the limit
-- weight:   the largest weight of a run that waits
-- most:     the most that the bounds in force let one run weigh
with ill as materialized (
    -- 1. The buckets for which rows wait, by their times, and those of them that are ill.
    select distinct on (b.limit_name) b.bucket, j.declared, b.weight, j.most
    from (
        select n.bucket, n.limit_name, n.weight, n.wakes_at
        from gen_durable.limit_buckets n
        where n.wakes_at is not null
        order by n.wakes_at
        limit 1000
    ) as b
    left join gen_durable.limits l on l.name = b.limit_name
    cross join lateral (
        select least(l.max_at_once, case when l.max_starts is not null then coalesce(l.max_burst, 1) end) as most,
               exists (
                   select from gen_durable.declarations d
                   join gen_durable.workers w on w.id = d.worker
                   where d.kind = 'limit' and d.name = b.limit_name
                     and w.lease_expires_at > gen_durable.now()
               ) as declared
    ) as j
    where not j.declared or b.weight > j.most
    order by b.limit_name, b.wakes_at
    limit 15
)
-- 2. Their rows.
select i.bucket, i.declared, i.weight, i.most, held.count, held.ids
from ill i
cross join lateral (
    select pg_catalog.count(*) as count, (pg_catalog.array_agg(n.id order by n.id))[1:5] as ids
    from (
        select w.id
        from gen_durable.instances w
        where w.limited_by = i.bucket and w.blocked_by & 16 = 16
        order by w.limited_by, w.blocked_by, w.priority, w.eligible_at, w.id
        limit 1001
    ) as n
) as held
where held.count > 0
order by i.bucket
