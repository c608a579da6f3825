-- Deletes a batch of ended instances whose retention is over, of each machine the oldest first. A
-- maintenance service runs it.
--
-- Invariant: at most 1,000 instances, and none that is locked. The number is no parameter: for one
-- the planner would expect a tenth of the table, and the statement would look costly enough for
-- Postgres to compile it each time.
--
-- $1 bigint: the retention in microseconds, for machines that are not in the table `retention`;
--            null keeps their instances for ever
with recursive machines (fsm) as (
    -- 1. The machines that have ended instances: one descent of the index for each.
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
    -- 2. The oldest instances of each machine, found by one more descent. If a machine's instances
    --    are kept for ever, the time to compare with is null: no instance is before it, and none is
    --    read.
    select old.id
    from machines m
    left join gen_durable.retention r on r.fsm = m.fsm
    cross join lateral (
        select o.id
        from gen_durable.instances o
        where o.fsm = m.fsm
          and o.owes is null
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
