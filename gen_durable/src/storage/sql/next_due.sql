-- Microseconds until the next row of the queues $1 and the machines $2 in the versions $3 is due
-- by its schedule, and until the next park times out; null if there is none.
with recursive groups (queue, fsm, fsm_version, priority) as (
    select q.queue, k.fsm, k.fsm_version, head.priority
    from unnest($1::text[]) as q (queue)
    cross join unnest($2::text[], $3::int[]) as k (fsm, fsm_version)
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = q.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
          and i.status = 'runnable' and not i.blocked
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
    union all
    select g.queue, g.fsm, g.fsm_version, head.priority
    from groups g
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority > g.priority
          and i.status = 'runnable' and not i.blocked
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
)
select (extract(epoch from (
           select min(head.eligible_at)
           from groups g
           cross join lateral (
               select i.eligible_at
               from gen_durable.instances i
               where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
                 and i.priority = g.priority
                 and i.status = 'runnable' and not i.blocked
               order by i.eligible_at
               limit 1
           ) as head
       ) - clock_timestamp()) * 1000000)::bigint as eligible,
       (extract(epoch from (
           select min(i.wake_at) from gen_durable.instances i where i.wake_at is not null
       ) - clock_timestamp()) * 1000000)::bigint as wake
