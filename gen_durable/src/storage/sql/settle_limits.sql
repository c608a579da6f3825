-- Gives limits the bounds of the declaration that has come into force. An engine runs it for the
-- limits that it declares, under the lock of lock_declarations.sql.
--
-- Invariant: the lock was taken before this statement, so no declaration that came into force
-- meanwhile is overwritten. A limit that an operator's open transaction has locked is left for a
-- later look.
--
-- $1 text[]:   the names
-- $2 text[]:   their declarations
-- $3 int[]:    the most runs at once, or null
-- $4 int[]:    the starts in a period, or null
-- $5 bigint[]: the period in microseconds, or null
-- $6 int[]:    the starts of a burst, or null
with own as materialized (
    select n.*
    from unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::bigint[], $6::int[])
        as n (name, body, at_once, starts, period, burst)
    -- Among the declarations of living workers, the text that appeared last is in force.
    cross join lateral (
        select d.body
        from gen_durable.declarations d
        join gen_durable.workers w on w.id = d.worker
        where d.kind = 'limit' and d.name = n.name and w.lease_expires_at > gen_durable.now()
        order by d.appeared_at desc
        limit 1
    ) as force
    where force.body = n.body
),
changed as materialized (
    select l.name
    from gen_durable.limits l
    join own o on o.name = l.name
    where l.name = any ($1::text[]) and l.body <> o.body
    for no key update of l skip locked
)
update gen_durable.limits l
set body = o.body,
    at_once = o.at_once,
    starts = o.starts,
    period = o.period,
    burst = o.burst,
    revision = l.revision + 1
from own o
where l.name = any (array(select c.name from changed c)) and o.name = l.name
