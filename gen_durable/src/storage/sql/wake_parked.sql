-- Second half of a park, in the same transaction: wakes those of the rows $1 for which a signal is
-- in the inbox that the step had not seen ($2).
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
      where s.target_id = i.id and s.name = any (i.awaits) and s.id <> all ($2::bigint[])
      limit 1
  )
returning i.queue
