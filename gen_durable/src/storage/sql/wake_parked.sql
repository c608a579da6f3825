-- Second half of a park, in the same transaction: wakes those of the rows $1 for which a signal that they
-- await is in the inbox and the step had not seen it. Of the awaited names it had seen the signals $2:
-- a set and no newest one, which is right also for signals that got their ids by other means.
--
-- The rows are locked since they were parked, and this statement's snapshot is younger than that
-- lock. A delivery locks the row too: it either committed before, and is seen here, or it comes
-- after and finds the row parked.
update gen_durable.instances i
set status = 'runnable',
    awaits = null,
    wake_at = null,
    eligible_at = gen_durable.now(),
    unique_scope = case when 'runnable' = any (i.unique_scope) then i.unique_scope end
where i.id = any ($1::bigint[])
  and i.status || '' = 'awaiting_signal'
  -- Not `exists`, which the planner may take for a join with all signals.
  and (
      select true from gen_durable.signals s
      where s.target_id = i.id and s.name = any (i.awaits)
        -- In a `case` the list is hashed; else it could be searched for each signal.
        and case when s.id in (select pg_catalog.unnest($2::bigint[])) then false else true end
      limit 1
  )
returning i.queue
