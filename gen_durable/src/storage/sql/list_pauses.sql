-- Lists pauses, the oldest first. Calls of operators run it.
--
-- Invariant: it lists only pauses that are in force.
--
-- $1 bigint: the instance whose pauses are listed: its own, and those of its queue, machine and
--            step. Null for all pauses but those of instances
-- $2 bigint: the most pauses to list
--
-- Times are microseconds since 1970.
select p.queue, p.fsm, p.step, p.instance_id, p.actor, p.reason,
       case when pg_catalog.isfinite(p.until)
            then (extract(epoch from p.until) * 1000000)::bigint end as until,
       (extract(epoch from p.paused_at) * 1000000)::bigint as paused_at
from (
    select s.*
    from gen_durable.pauses s
    left join gen_durable.instances i on i.id = $1::bigint
    where s.instance_id is null
      and ($1::bigint is null or s.queue = i.queue or s.fsm = i.fsm and coalesce(s.step, i.step) = i.step)
    union all
    select o.* from gen_durable.pauses o where o.instance_id = $1::bigint
) as p
where p.until is null or p.until > gen_durable.now()
order by p.id
limit $2::bigint
