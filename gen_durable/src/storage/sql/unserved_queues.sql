-- Lists the queues that have runnable rows and that no worker with a running lease serves. A
-- maintenance service logs them.
--
-- Invariant: one descent of the claim's index for each queue, however many rows wait.
with recursive queues (queue) as (
    (
        select i.queue
        from gen_durable.instances i
        where i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version
        limit 1
    )
    union all
    select head.queue
    from queues q
    cross join lateral (
        select i.queue
        from gen_durable.instances i
        where i.queue > q.queue and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
)
select q.queue
from queues q
where not exists (
    select from gen_durable.workers w
    where w.lease_expires_at > gen_durable.now() and q.queue = any (w.queues)
)
limit 100
