-- Answers cancels: sends each instance to the step with which its machine answers, or ends it. The
-- service `debts` runs it, for instances whose runs this engine has dropped, and for instances that
-- no engine runs.
--
-- Invariant: a cancel is answered once, and from what is registered for the row's own version. A
-- row of which another worker has a run is left alone, and so is one that another transaction has
-- locked.
--
-- $1 bigint[]: the instances
-- $2 bigint:   the worker of this engine; null leaves all rows alone that execute
with due as materialized (
    -- 1. The rows whose version is registered, locked. The others wait, perhaps for long, and are
    --    not locked again and again. `coalesce` fits no index, so the rows are looked up by their
    --    ids.
    select i.id, i.status, i.fsm, i.fsm_version
    from gen_durable.instances i
    where i.id = any ($1::bigint[])
      and coalesce(i.owes, 0) & 4 = 4
      and (
          select true
          from gen_durable.machines m
          where m.fsm = i.fsm and m.fsm_version = i.fsm_version
      ) is not null
      and (i.status || '' <> 'executing' or case when i.locked_by = $2 then true else false end)
    for no key update skip locked
),
answers as materialized (
    -- 2. The step for each; null if the cancel ends it.
    select d.id, d.status, m.on_cancel
    from due d
    join gen_durable.machines m on m.fsm = d.fsm and m.fsm_version = d.fsm_version
)
update gen_durable.instances i
set status = case when a.on_cancel is null then 'cancelled' else 'runnable' end,
    step = coalesce(a.on_cancel, i.step),
    attempt = case when a.on_cancel is null then i.attempt else 0 end,
    failures = case when a.on_cancel is null then i.failures else 0 end,
    crashes = 0,
    awaits = null,
    eligible_at = least(i.eligible_at, gen_durable.now()),
    -- The reasons that held back its step (4, 16) do not hold back the next one.
    blocked_by = case when a.on_cancel is null then i.blocked_by & 8 else i.blocked_by & ~22 end,
    paused_by = case when i.blocked_by & 8 = 8 then 0 end,
    owes = nullif(
        i.owes & ~5 | case when a.on_cancel is null and i.report_to is not null then 1 else 0 end, 0
    ),
    -- The reason is in the audit alone as yet.
    last_error = case
        when a.on_cancel is null then coalesce((
            select e.reason
            from gen_durable.audit e
            where e.instance_id = i.id and e.action = 'cancel'
            order by e.id desc
            limit 1
        ), 'cancelled')
        else i.last_error
    end,
    locked_by = null,
    finished_at = case when a.on_cancel is null then gen_durable.now() end,
    revision = i.revision % 4611686018427387904 + 1,
    unique_released = i.unique_released or case
        when a.on_cancel is null then 'cancelled' else 'runnable'
    end <> all (i.unique_scope),
    updated_at = gen_durable.now()
-- The planner takes two arrays for several rows, and hashes them. It took a join for one row, and
-- looked all rows up for each.
from unnest(
    array(select a.id from answers a order by a.id),
    array(select a.on_cancel from answers a order by a.id)
) as a (id, on_cancel)
where i.id = any (array(select a.id from answers a)) and i.id + 0 = a.id
-- queue:         the row's queue, if the row may run
-- partition_key: the key to free: no run of the row has it any more
-- reports:       true if the end is to be reported
returning i.id,
          case when i.status = 'runnable' then i.queue end as queue,
          i.partition_key,
          i.status = 'cancelled' and i.report_to is not null as reports
