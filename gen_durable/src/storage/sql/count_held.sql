-- Counts the rows that are executing, or runnable and not to be claimed, by queue, machine, version
-- and step. Looks at queues and at machines run it.
--
-- Invariant: it examines at most five thousand rows of each kind, however many there are.
--
-- $1 text: their machine; null for any
--
-- `capped` says that there are more of the kind. `oldest` is in microseconds since 1970: the
-- earliest change of an executing row, and the earliest due time of another.
with held as materialized (
    -- 1. The rows, in the order of an index that has little else. The order makes Postgres take
    --    that index, whatever the statistics say. The number is not a parameter, so that the
    --    planner knows it.
    (
        select 'executing' as waits, i.status, i.queue, i.fsm, i.fsm_version, i.step, i.updated_at as since
        from gen_durable.instances i
        where i.locked_by is not null
        order by i.locked_by
        limit 5001
    )
    union all
    (
        select 'blocked', i.status, i.queue, i.fsm, i.fsm_version, i.step, i.eligible_at
        from gen_durable.instances i
        where i.blocked_by & 1 = 1
        order by i.partition_key, i.queue, i.fsm, i.fsm_version, i.priority, i.eligible_at, i.id
        limit 5001
    )
    union all
    (
        select 'paused', i.status, i.queue, i.fsm, i.fsm_version, i.step, i.eligible_at
        from gen_durable.instances i
        where i.status = 'runnable' and i.paused_by is not null and i.blocked_by & 1 = 0
        order by i.paused_by, i.id
        limit 5001
    )
    union all
    (
        -- A row that is paused too counts as paused, in the branch above.
        select 'limited', i.status, i.queue, i.fsm, i.fsm_version, i.step, i.eligible_at
        from gen_durable.instances i
        where i.blocked_by & 16 = 16 and i.blocked_by between 16 and 18 and i.blocked_by & 1 = 0
        order by i.limited_by, i.blocked_by, i.priority, i.eligible_at, i.id
        limit 5001
    )
    union all
    (
        -- Rows that wait for the answer to their cancel. One that is also paused, limited or behind
        -- its key has been counted above.
        select 'blocked', i.status, i.queue, i.fsm, i.fsm_version, i.step, i.eligible_at
        from gen_durable.instances i
        where i.owes is not null and i.blocked_by & 31 = 2
        order by i.id
        limit 5001
    )
)
-- 2. Their counts.
select h.waits, h.queue, h.fsm, h.fsm_version, h.step, pg_catalog.count(*) as count,
       (select pg_catalog.count(*) > 5000 from held o where o.waits = h.waits) as capped,
       (extract(epoch from pg_catalog.min(h.since) filter (
           where pg_catalog.isfinite(h.since)
       )) * 1000000)::bigint as oldest
from held h
where h.status = case h.waits when 'executing' then 'executing' else 'runnable' end
  and ($1::text is null or h.fsm = $1::text)
group by h.waits, h.queue, h.fsm, h.fsm_version, h.step
