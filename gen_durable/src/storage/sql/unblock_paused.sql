-- Frees rows that are marked as paused (block_paused.sql) and whose pause is over, a part at a
-- time. The service `debts` runs it.
--
-- Invariant: a mark outlives its pause only until this statement has come to it. It finds marks by
-- their pause, and so does not read those of pauses that last. A row that another pause holds as
-- well is claimed once more, and marked for that one.
--
-- $1 bigint: the most rows to free
with recursive met (paused_by) as (
    -- 1. The pauses of marked rows: one descent of the index for each. 0 is none. Each
    --    comparison implies `is not null`. If it were written, the planner might count on the few
    --    pauses of its statistics, and read and sort all marked rows.
    select (
        select i.paused_by
        from gen_durable.instances i
        where i.status = 'runnable' and i.paused_by > 0
        order by i.paused_by, i.id
        limit 1
    )
    union all
    select (
        select i.paused_by
        from gen_durable.instances i
        where i.status = 'runnable' and i.paused_by > m.paused_by
        order by i.paused_by, i.id
        limit 1
    )
    from met m
    where m.paused_by is not null
),
ended as materialized (
    -- 2. Those that are over. Each is looked up by its id: `not exists` may read all pauses.
    select m.paused_by
    from met m
    where m.paused_by is not null
      and (
          select p.id
          from gen_durable.pauses p
          where p.id = m.paused_by and (p.until is null or p.until > gen_durable.now())
      ) is null
),
freed as materialized (
    -- 3. Their rows, locked.
    select row.id
    from unnest(array(select e.paused_by from ended e)) as e (paused_by)
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.status = 'runnable' and i.paused_by is not null and i.paused_by = e.paused_by
        order by i.paused_by, i.id
        limit 1000
        for no key update skip locked
    ) as row
    limit $1::bigint
),
updated as (
    update gen_durable.instances i
    set blocked_by = i.blocked_by & ~4,
        paused_by = case when i.blocked_by & 8 = 8 then 0 end
    where i.id = any (array(select f.id from freed f))
    returning i.queue
)
-- 4. One row: the number of freed rows and their queues, and whether any row was found. Then others
--    may be left: more than $1, or such that another transaction has locked. A claim locks a row
--    that goes next for its key.
select (select pg_catalog.count(*) from updated) as freed,
       array(select distinct u.queue from updated u) as queues,
       exists (select from ended) as found
