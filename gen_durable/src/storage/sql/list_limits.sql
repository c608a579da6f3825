-- Lists limits by their names, with their bounds. Calls of operators run it.
--
-- $1 text:   lists those after this name; empty for the first ones
-- $2 bigint: the most limits
-- $3 text:   the only name, or null
--
-- `set_at` is in microseconds since 1970.
select l.name, l.at_once, l.starts, l.period, l.burst,
       l.set_at_once, l.set_starts, l.set_period, l.set_burst,
       (extract(epoch from l.set_at) * 1000000)::bigint as set_at, l.set_by, l.set_reason,
       l.max_at_once, l.max_starts, l.max_period, l.max_burst,
       array(
           -- The living workers that declare it, the bounds in force first.
           select w.id
           from gen_durable.declarations d
           join gen_durable.workers w on w.id = d.worker
           where d.kind = 'limit' and d.name = l.name and w.lease_expires_at > gen_durable.now()
           order by d.appeared_at desc, w.id
       ) as declared_by
from gen_durable.limits l
where l.name > $1::text and ($3::text is null or l.name = $3::text)
order by l.name
limit $2::bigint
