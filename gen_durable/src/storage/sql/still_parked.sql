-- Finds the instances, among some, that are parked as they were. The doctor runs it: others may
-- have come and gone while it looked.
--
-- $1 bigint[]: the instances
-- $2 bigint[]: their revisions
select i.id
from unnest($1::bigint[], $2::bigint[]) as p (id, revision)
join gen_durable.instances i on i.id = p.id
where i.status || '' = 'awaiting_signal' and i.revision = p.revision
order by i.id
