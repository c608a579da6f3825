-- Wakes rows that this transaction parked, if their inbox has a signal that they await and their
-- step had not seen. It is the second half of a park: the flusher runs it after commit.sql. The
-- answer has the queues of the woken rows.
--
-- Invariant: no row stays parked beside such a signal. The rows are locked since commit.sql, and
-- this statement's snapshot is younger than that lock. A delivery locks the row too: either it
-- committed before, and its signal is seen here, or it comes after, and finds the row parked.
--
-- $1 bigint[]: the parked rows
-- $2 bigint[]: the signals of the awaited names that their steps had seen
--
-- $2 is a set of ids, and not the newest id: that is right also for signals that got their ids by
-- other means.
update gen_durable.instances i
set status = 'runnable',
    awaits = null,
    wake_at = null,
    eligible_at = gen_durable.now(),
    unique_released = i.unique_released or 'runnable' <> all (i.unique_scope)
where i.id = any ($1::bigint[])
  and i.status || '' = 'awaiting_signal'
  -- A subquery with a limit stands for `exists`, which the planner may take for a join with all
  -- signals.
  and (
      select true from gen_durable.signals s
      where s.target_id = i.id and s.name = any (i.awaits)
        -- In a `case` the list is hashed; otherwise it could be searched for each signal.
        and case when s.id in (select pg_catalog.unnest($2::bigint[])) then false else true end
      limit 1
  )
returning i.queue
