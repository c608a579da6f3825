-- Microseconds until the next row of `gen_durable.instances` is due by its schedule, and until the
-- next park times out; null if there is none. The claimer runs it when it has nothing to claim, to
-- know how long it may wait.
--
-- Invariant: the cost does not grow with the rows that wait.
--
-- $1 text[]: a queue; with $2 and $3 a list of each queue with each machine and version
-- $2 text[]: the machine
-- $3 int[]:  its version
-- $4 bigint: the microseconds after which a due row no longer counts
--
-- A claim has seen a row that has been due for longer than $4. It did not take the row, which is
-- locked or whose queue is full. Such a row must not hide later ones.
--
-- Both times are kept within a century of now. Postgres subtracts no infinite time, and one such
-- row must not fail the look for all.
with recursive groups (queue, fsm, fsm_version, priority) as (
    -- 1. The groups that exist: queue, machine, version and priority. Each is found by one descent
    --    of the index, as in claim.sql.
    select k.queue, k.fsm, k.fsm_version, head.priority
    from unnest((select $1::text[]), (select $2::text[]), (select $3::int[]))
        as k (queue, fsm, fsm_version)
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
          and i.status = 'runnable' and i.blocked_by = 0
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
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
)
-- 2. The time of the earliest row that counts, found at the head of each group.
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
                 and i.status = 'runnable' and i.blocked_by = 0
                 and i.eligible_at > gen_durable.now() - $4 * interval '1 microsecond'
               order by i.eligible_at
               limit 1
           ) as head
       ) - gen_durable.clock()) * 1000000)::bigint as eligible,
       -- 3. The time of the earliest timeout of a park, in any queue.
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
