-- Finds those of some instances that are still parked, in the revision that the caller has read.
-- The doctor runs it. A child may have ended during its looks, and its report has woken the parent.
--
-- $1 bigint[]: the instances
-- $2 bigint[]: their revisions
select i.id
from unnest($1::bigint[], $2::bigint[]) as p (id, revision)
join gen_durable.instances i on i.id = p.id
where i.status || '' = 'awaiting_signal' and i.revision = p.revision
order by i.id
