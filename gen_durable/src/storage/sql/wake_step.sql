-- Wakes an instance that the step's own transaction has parked, because is_awaited_there.sql found
-- a signal. The answer is its queue.
--
-- $1 bigint: the instance
update gen_durable.instances i
set status = 'runnable',
    awaits = null,
    wake_at = null,
    eligible_at = gen_durable.now(),
    unique_released = i.unique_released or 'runnable' <> all (i.unique_scope)
where i.id = $1::bigint and i.status || '' = 'awaiting_signal'
returning i.queue
