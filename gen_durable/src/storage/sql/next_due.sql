-- Microseconds until the next row is due by its schedule, in the queues $1 and of the machines $2
-- in the versions $3 (a list of each queue with each machine), and until the next park times out;
-- null if there is none. The groups are found as in claim.sql. Both are kept within a century: Postgres
-- subtracts no infinite time, and one such row must not fail the look for all.
--
-- What has been due for more than $4 microseconds does not count: a claim has seen it and did not take it, as it is
-- locked or its queue is full, and it must not hide what comes later.
with recursive groups (queue, fsm, fsm_version, priority) as (
    select k.queue, k.fsm, k.fsm_version, head.priority
    from unnest((select $1::text[]), (select $2::text[]), (select $3::int[]))
        as k (queue, fsm, fsm_version)
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
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
           select pg_catalog.min(least(
               greatest(head.eligible_at, gen_durable.now() - interval '1 century'), gen_durable.now() + interval '1 century'
           ))
           from groups g
           cross join lateral (
               select i.eligible_at
               from gen_durable.instances i
               where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
                 and i.priority = g.priority
                 and i.status = 'runnable' and not i.blocked
                 and i.eligible_at > gen_durable.now() - $4 * interval '1 microsecond'
               order by i.eligible_at
               limit 1
           ) as head
       ) - gen_durable.clock()) * 1000000)::bigint as eligible,
       (extract(epoch from (
           select least(
               greatest(head.wake_at, gen_durable.now() - interval '1 century'), gen_durable.now() + interval '1 century'
           )
           from (
               select i.wake_at
               from gen_durable.instances i
               where i.wake_at is not null
               order by i.wake_at
               limit 1
           ) as head
       ) - gen_durable.clock()) * 1000000)::bigint as wake
