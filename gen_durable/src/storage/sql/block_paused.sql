-- Marks rows of paused queues, machines and steps, so that no claim finds them again: rows that the
-- worker has claimed and is about to give back, and those that come after them in the claim's
-- index. The claimer runs it if it has claimed rows of which it knows that they are paused.
--
-- Invariant: a row is marked only while its pause lasts. This transaction has locked the pause, and
-- resume_scope.sql waits for it.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the claimed rows
--
-- `status || ''` fits no index: rows whose ids are known are looked up by id alone.
with pauses as materialized (
    -- 1. The pauses that are in force, locked.
    select p.id, p.queue, p.fsm, p.step
    from gen_durable.pauses p
    where p.instance_id is null and (p.until is null or p.until > gen_durable.now())
    for key share
),
own as materialized (
    -- 2. The claimed rows. One that another transaction has locked is given back unmarked.
    select i.id, i.queue, i.fsm, i.fsm_version, i.step, i.priority, i.eligible_at
    from gen_durable.instances i
    where i.id = any ($2::bigint[]) and i.status || '' = 'executing'
      and case when i.locked_by = $1 then true else false end
    for no key update skip locked
),
last as materialized (
    -- 3. The least urgent of them.
    select o.*
    from own o
    order by o.priority desc, o.eligible_at desc, o.id desc
    limit 1
),
ahead as materialized (
    -- 4. The due rows that follow in the same queue, machine, version and priority.
    select row.id, row.queue, row.fsm, row.step
    from last l
    cross join lateral (
        select i.id, i.queue, i.fsm, i.step
        from gen_durable.instances i
        where i.queue = l.queue and i.fsm = l.fsm and i.fsm_version = l.fsm_version
          and i.priority = l.priority
          and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
          and (i.eligible_at, i.id) > (l.eligible_at, l.id)
        order by i.eligible_at, i.id
        limit 2000
    ) as row
),
paused as materialized (
    -- 5. The paused rows among all of these, and a pause of each.
    select r.id, r.queue, r.fsm, r.step, r.paused_by
    from (
        select r.*, (
            select p.id
            from pauses p
            where p.queue = r.queue or p.fsm = r.fsm and coalesce(p.step, r.step) = r.step
            order by p.id
            limit 1
        ) as paused_by
        from (
            select o.id, o.queue, o.fsm, o.step from own o
            union all
            select a.id, a.queue, a.fsm, a.step from ahead a
        ) as r
    ) as r
    where r.paused_by is not null
),
waiting as materialized (
    -- 6. The same, locked, if they still stand there: a row may have gone to another step
    --    meanwhile. Rows that another transaction has locked stay in the index.
    select row.id, p.paused_by
    from unnest(
        array(select p.id from paused p), array(select p.queue from paused p),
        array(select p.fsm from paused p), array(select p.step from paused p),
        array(select p.paused_by from paused p)
    ) as p (id, queue, fsm, step, paused_by)
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.id = p.id and i.queue || '' = p.queue and i.fsm || '' = p.fsm and i.step || '' = p.step
          and i.blocked_by & 4 = 0
          and (i.status || '' = 'runnable' or case when i.locked_by = $1 then true else false end)
        for no key update skip locked
    ) as row
),
marked as (
    update gen_durable.instances i
    set blocked_by = i.blocked_by | 4,
        paused_by = w.paused_by
    from unnest(array(select w.id from waiting w), array(select w.paused_by from waiting w)) as w (id, paused_by)
    where i.id = any (array(select w.id from waiting w)) and i.id + 0 = w.id
    returning i.id
)
-- 7. The marked rows among the claimed ones.
select m.id from marked m where m.id = any ($2::bigint[])
