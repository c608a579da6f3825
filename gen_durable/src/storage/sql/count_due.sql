-- Counts the runnable rows that a claim may take, by queue, machine, version and step: those that
-- are due, and those that are scheduled. Looks at queues and at machines run it.
--
-- Invariant: it examines at most a thousand groups. A group is a queue, machine, version and
-- priority. It takes at most `share` due rows of each group, and as many scheduled ones. `share` is
-- 5,000 divided by the number of groups, but not less than 50.
--
-- $1 text: their machine; null for any
--
-- `capped` says that there may be more. `oldest` is the earliest due time, in microseconds since
-- 1970.
with recursive groups (queue, fsm, fsm_version, priority) as (
    -- 1. The groups: one descent of the claim's index for each.
    (
        select i.queue, i.fsm, i.fsm_version, i.priority
        from gen_durable.instances i
        where i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    )
    union all
    select head.queue, head.fsm, head.fsm_version, head.priority
    from groups g
    cross join lateral (
        select i.queue, i.fsm, i.fsm_version, i.priority
        from gen_durable.instances i
        where (i.queue, i.fsm, i.fsm_version, i.priority) > (g.queue, g.fsm, g.fsm_version, g.priority)
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
),
known as materialized (
    -- 2. The groups that one look takes.
    select g.queue, g.fsm, g.fsm_version, g.priority from groups g limit 1000
),
chosen as materialized (
    select k.queue, k.fsm, k.fsm_version, k.priority
    from known k
    where $1::text is null or k.fsm = $1::text
),
share as materialized (
    -- 3. The most rows of each group, due and scheduled.
    select greatest(50, 5000 / greatest(1, pg_catalog.count(*))) as rows from chosen c
),
found as materialized (
    -- 4. The rows. The inner numbers are not parameters, so that the planner knows them.
    select 'due' as waits, c.queue, c.fsm, c.fsm_version, c.priority, d.step, d.eligible_at
    from chosen c
    cross join lateral (
        select n.step, n.eligible_at
        from (
            select i.step, i.eligible_at
            from gen_durable.instances i
            where i.queue = c.queue and i.fsm = c.fsm and i.fsm_version = c.fsm_version
              and i.priority = c.priority
              and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
            order by i.eligible_at
            limit 10000
        ) as n
        limit (select s.rows from share s)
    ) as d
    union all
    select 'scheduled', c.queue, c.fsm, c.fsm_version, c.priority, l.step, l.eligible_at
    from chosen c
    cross join lateral (
        select n.step, n.eligible_at
        from (
            select i.step, i.eligible_at
            from gen_durable.instances i
            where i.queue = c.queue and i.fsm = c.fsm and i.fsm_version = c.fsm_version
              and i.priority = c.priority
              and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at > gen_durable.now()
            order by i.eligible_at
            limit 10000
        ) as n
        limit (select s.rows from share s)
    ) as l
),
full_groups as materialized (
    -- 5. The groups of which a look takes no more.
    select f.waits, f.queue, f.fsm, f.fsm_version, f.priority
    from found f
    group by f.waits, f.queue, f.fsm, f.fsm_version, f.priority
    having pg_catalog.count(*) >= (select s.rows from share s)
)
select f.waits, f.queue, f.fsm, f.fsm_version, f.step, pg_catalog.count(*) as count,
       exists (
           select from full_groups o
           where o.waits = f.waits and o.queue = f.queue and o.fsm = f.fsm and o.fsm_version = f.fsm_version
       ) or (select pg_catalog.count(*) from known k) >= 1000 as capped,
       (extract(epoch from pg_catalog.min(f.eligible_at) filter (
           where pg_catalog.isfinite(f.eligible_at)
       )) * 1000000)::bigint as oldest
from found f
group by f.waits, f.queue, f.fsm, f.fsm_version, f.step
