-- Finds the queues, machines and versions for which runnable rows wait and that no living worker
-- runs there. The doctor runs it.
--
-- Invariant: it examines at most a thousand queues, machines and versions, and a thousand rows of
-- each that it finds.
--
-- served:   true if a living worker serves the queue
-- run:      true if a living worker runs the version, in whatever queue
-- versions: the versions of the machine that living workers run
-- oldest:   the earliest due time of a row, in microseconds since 1970
with recursive kinds (queue, fsm, fsm_version) as (
    -- 1. One descent of the claim's index for each.
    (
        select i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version
        limit 1
    )
    union all
    select head.queue, head.fsm, head.fsm_version
    from kinds k
    cross join lateral (
        select i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where (i.queue, i.fsm, i.fsm_version) > (k.queue, k.fsm, k.fsm_version)
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
),
known as materialized (
    select k.queue, k.fsm, k.fsm_version from kinds k limit 1000
),
served as materialized (
    -- 2. The queues and machines of living workers.
    select w.queues, k.fsm, k.fsm_version
    from gen_durable.workers w
    left join lateral unnest(w.fsms, w.fsm_versions) as k (fsm, fsm_version) on true
    where w.lease_expires_at > gen_durable.now()
),
waiting as materialized (
    select k.queue, k.fsm, k.fsm_version
    from known k
    where not exists (
        select from served s
        where k.queue = any (s.queues) and s.fsm = k.fsm and s.fsm_version = k.fsm_version
    )
    limit 100
)
-- 3. Their rows.
select w.queue, w.fsm, w.fsm_version,
       exists (select from served s where w.queue = any (s.queues)) as served,
       exists (select from served s where s.fsm = w.fsm and s.fsm_version = w.fsm_version) as run,
       array(
           select distinct s.fsm_version from served s where s.fsm = w.fsm order by s.fsm_version
       ) as versions,
       held.count, held.ids,
       (extract(epoch from held.oldest) * 1000000)::bigint as oldest
from waiting w
cross join lateral (
    select pg_catalog.count(*) as count,
           (pg_catalog.array_agg(n.id order by n.place))[1:5] as ids,
           pg_catalog.min(n.eligible_at) filter (where pg_catalog.isfinite(n.eligible_at)) as oldest
    from (
        select i.id, i.eligible_at,
               pg_catalog.row_number() over (order by i.priority, i.eligible_at, i.id) as place
        from (
            select i.id, i.eligible_at, i.priority
            from gen_durable.instances i
            where i.queue = w.queue and i.fsm = w.fsm and i.fsm_version = w.fsm_version
              and i.status = 'runnable' and i.blocked_by = 0
            order by i.priority, i.eligible_at, i.id
            limit 1001
        ) as i
    ) as n
) as held
order by w.queue, w.fsm, w.fsm_version
