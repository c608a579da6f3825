-- Counts the failed rows by queue, machine, version and step. Looks at queues and at machines run
-- it.
--
-- Invariant: it examines some five thousand rows of a hundred machines, however many there are: of
-- each machine the newest ones.
--
-- $1 text: their machine; null for any
--
-- `capped` says that there are more of the machine. `oldest` is the earliest end among them, in
-- microseconds since 1970.
with recursive machines (fsm) as (
    -- 1. The machine, or all machines that have such rows: one descent of the index for each.
    (
        select $1::text
        where $1::text is not null
        union all
        (
            select i.fsm
            from gen_durable.instances i
            where i.status in ('failed', 'cancelled') and $1::text is null
            order by i.fsm, i.id
            limit 1
        )
    )
    union all
    select head.fsm
    from machines m
    cross join lateral (
        select i.fsm
        from gen_durable.instances i
        where i.status in ('failed', 'cancelled') and i.fsm > m.fsm
        order by i.fsm, i.id
        limit 1
    ) as head
    where $1::text is null
),
known as materialized (
    select m.fsm from machines m limit 100
),
share as materialized (
    select 5000 / greatest(1, pg_catalog.count(*)) as rows from known k
),
found as materialized (
    -- 2. The newest rows of each. The inner number is not a parameter, so that the planner knows
    --    it.
    select k.fsm, f.queue, f.fsm_version, f.step, f.status, f.finished_at
    from known k
    cross join lateral (
        select n.queue, n.fsm_version, n.step, n.status, n.finished_at
        from (
            select i.queue, i.fsm_version, i.step, i.status, i.finished_at
            from gen_durable.instances i
            where i.status in ('failed', 'cancelled') and i.fsm = k.fsm
            order by i.id desc
            limit 5000
        ) as n
        limit (select s.rows from share s)
    ) as f
)
-- 3. Their counts.
select 'failed' as waits, f.queue, f.fsm, f.fsm_version, f.step, pg_catalog.count(*) as count,
       (select pg_catalog.count(*) from found o where o.fsm = f.fsm) >= (select s.rows from share s)
           or (select pg_catalog.count(*) from known k) >= 100 as capped,
       (extract(epoch from pg_catalog.min(f.finished_at) filter (
           where pg_catalog.isfinite(f.finished_at)
       )) * 1000000)::bigint as oldest
from found f
where f.status = 'failed'
group by f.queue, f.fsm, f.fsm_version, f.step
