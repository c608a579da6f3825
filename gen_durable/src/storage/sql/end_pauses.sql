-- Deletes pauses whose time is over, and lets the instances go on that were paused by themselves.
-- The service `debts` runs it.
--
-- Invariant: it waits for no lock. A pause that gets another end meanwhile stays.
--
-- $1 bigint: the most pauses to delete
with ended as materialized (
    -- 1. The pauses of queues, machines and steps, and those of instances, which are locked before
    --    the pauses are, as in pause_instances.sql. Those of locked instances are left for later.
    select p.id
    from (
        select p.id, p.instance_id
        from gen_durable.pauses p
        where p.until <= gen_durable.now()
        order by p.until
    ) as p
    left join lateral (
        select i.id from gen_durable.instances i where i.id = p.instance_id for no key update skip locked
    ) as locked on true
    where p.instance_id is null or locked.id is not null
    limit $1::bigint
),
due as materialized (
    -- 2. The same, locked.
    select p.id
    from gen_durable.pauses p
    where p.id = any (array(select e.id from ended e))
      and p.until <= gen_durable.now()
    for update skip locked
),
gone as (
    delete from gen_durable.pauses p
    where p.id = any (array(select d.id from due d))
    returning p.instance_id
),
freed as (
    update gen_durable.instances i
    set blocked_by = i.blocked_by & ~8,
        paused_by = nullif(i.paused_by, 0)
    where i.id = any (array(select g.instance_id from gone g))
    returning i.queue, i.status, i.blocked_by
)
-- 4. One row for each pause that was deleted: the queue of its instance, if a claim may find the
--    row.
select (select null::text) as queue from gone g where g.instance_id is null
union all
select case when f.status = 'runnable' and f.blocked_by = 0 then f.queue end from freed f
