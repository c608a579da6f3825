-- Wakes parked instances whose time is up, the longest due first. The claimer and a maintenance
-- service run it. The answer has the queues of the woken instances.
--
-- Invariant: at most a batch, and none that is locked. An empty list of awaited names tells the
-- step that no signal woke it.
--
-- A run after a time of waiting begins a trace of its own (`-`).
--
-- $1 bigint: the most instances to wake
update gen_durable.instances i
set status = 'runnable',
    awaits = '{}',
    awaits_more = null,
    wake_at = null,
    eligible_at = gen_durable.now(),
    trace_context = '-' || pg_catalog.ltrim(i.trace_context, '-'),
    unique_released = i.unique_released or 'runnable' <> all (i.unique_scope),
    updated_at = gen_durable.now()
where i.id = any (array(
    select due.id
    from gen_durable.instances due
    where due.wake_at <= gen_durable.now() and due.status = 'awaiting_signal'
    order by due.wake_at
    limit $1
    for no key update skip locked
))
returning i.queue
