-- Lists queues by their names: those that engines have registered, and those that living engines
-- serve. Looks at queues run it.
--
-- $1 bigint: the most queues
select q.name, pg_catalog.bool_or(q.registered) as registered,
       pg_catalog.sum(q.workers)::bigint as workers, pg_catalog.sum(q.slots)::bigint as slots
from (
    select r.name, true as registered, 0 as workers, 0 as slots
    from gen_durable.queues r
    union all
    select s.queue collate "C", false, 1, s.slots
    from gen_durable.workers w
    cross join lateral unnest(w.queues, w.slots) as s (queue, slots)
    where w.lease_expires_at > gen_durable.now()
) as q
group by q.name
order by q.name
limit $1::bigint
