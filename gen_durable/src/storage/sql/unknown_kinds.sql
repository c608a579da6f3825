-- Lists the machines and versions that have runnable rows in some queues, or cancelled rows that
-- wait for the answer of an engine. A maintenance service logs those that the engine does not know.
--
-- Invariant: one descent of the claim's index for each of them, however many rows wait, and at most
-- a thousand cancelled rows.
--
-- $1 text[]: the queues
with recursive kinds (queue, fsm, fsm_version) as (
    select q.queue, head.fsm, head.fsm_version
    from pg_catalog.unnest($1::text[]) as q (queue)
    cross join lateral (
        select i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.queue = q.queue and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
    union all
    select k.queue, head.fsm, head.fsm_version
    from kinds k
    cross join lateral (
        select i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.queue = k.queue and (i.fsm, i.fsm_version) > (k.fsm, k.fsm_version)
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
)
(select k.queue, k.fsm, k.fsm_version from kinds k limit 1000)
union
-- Cancelled rows are not in the claim's index.
select c.queue, c.fsm, c.fsm_version
from (
    select i.queue, i.fsm, i.fsm_version, i.blocked_by
    from gen_durable.instances i
    where i.owes is not null
    order by i.id
    limit 1000
) as c
where c.blocked_by & 2 = 2 and c.queue = any ($1::text[])
