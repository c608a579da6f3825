-- Deletes a batch of ended instances, of each machine those that ended first.
--
-- $1 bigint: for how many microseconds instances of a machine are kept of which `retention` says
--            nothing; null keeps them for ever
--
-- A batch is 1,000 instances. The number is in the text: for a parameter the planner would expect a
-- tenth of the table, and find the statement costly enough to be compiled each time.
with recursive machines (fsm) as (
    -- 1. Machines of which instances have ended: one descent of the index for each.
    (
        select i.fsm
        from gen_durable.instances i
        where i.finished_at is not null
        order by i.fsm, i.finished_at
        limit 1
    )
    union all
    select (
        select i.fsm
        from gen_durable.instances i
        where i.finished_at is not null and i.fsm > m.fsm
        order by i.fsm, i.finished_at
        limit 1
    )
    from machines m
    where m.fsm is not null
)
delete from gen_durable.instances i
where i.id = any (array(
    -- 2. The oldest of each machine, found by one more descent. A machine whose instances are kept
    --    for ever has a limit that is null: nothing is before it, and nothing is read.
    select old.id
    from machines m
    left join gen_durable.retention r on r.fsm = m.fsm
    cross join lateral (
        select o.id
        from gen_durable.instances o
        where o.fsm = m.fsm
          and o.finished_at < gen_durable.now() - case
              when r.fsm is null then $1::bigint * interval '1 microsecond'
              else r.keep_for
          end
        order by o.finished_at
        limit 1000
        for update skip locked
    ) as old
    where m.fsm is not null
    limit 1000
))
