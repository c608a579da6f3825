-- Counts the parked rows by queue, machine, version and step, among the newest rows of the table
-- and among those whose parks time out. No index has the others. Looks at queues and at machines
-- run it.
--
-- Invariant: it examines at most ten thousand rows by the primary key, and five thousand by their
-- timeouts, however many there are.
--
-- $1 text: their machine; null for any
--
-- `capped` says that there may be more. `oldest` is the earliest change among them, in microseconds
-- since 1970.
with newest as materialized (
    -- 1. The newest rows of the table. With the limit the filter stays outside, as in
    --    find_instances.sql.
    select i.id, i.queue, i.fsm, i.fsm_version, i.step, i.status, i.updated_at
    from gen_durable.instances i
    order by i.id desc
    limit 10001
),
edge as materialized (
    select case when pg_catalog.count(*) > 10000 then pg_catalog.min(n.id) end as id from newest n
),
timed as materialized (
    -- 2. Older rows whose parks time out.
    select t.queue, t.fsm, t.fsm_version, t.step, t.updated_at
    from (
        select i.id, i.queue, i.fsm, i.fsm_version, i.step, i.status, i.updated_at
        from gen_durable.instances i
        where i.wake_at is not null and (select e.id from edge e) is not null
        order by i.wake_at
        limit 5000
    ) as t
    where t.id < (select e.id from edge e) and t.status = 'awaiting_signal'
),
parked as (
    select n.queue, n.fsm, n.fsm_version, n.step, n.updated_at
    from newest n
    where n.status = 'awaiting_signal'
    union all
    select t.queue, t.fsm, t.fsm_version, t.step, t.updated_at from timed t
)
-- 3. Their counts.
select 'awaiting' as waits, p.queue, p.fsm, p.fsm_version, p.step, pg_catalog.count(*) as count,
       (select e.id from edge e) is not null as capped,
       (extract(epoch from pg_catalog.min(p.updated_at) filter (
           where pg_catalog.isfinite(p.updated_at)
       )) * 1000000)::bigint as oldest
from parked p
where $1::text is null or p.fsm = $1::text
group by p.queue, p.fsm, p.fsm_version, p.step
