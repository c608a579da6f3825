-- Wakes up to $1 parked instances whose time is up. An empty list of awaited names tells the step
-- that no signal woke it.
update gen_durable.instances i
set status = 'runnable',
    awaits = '{}',
    wake_at = null,
    eligible_at = gen_durable.now(),
    unique_scope = case when 'runnable' = any (i.unique_scope) then i.unique_scope end,
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
