-- Reads how often the bounds of limits have changed, and whether a limit has not got the bounds of
-- the declaration that is in force. The limiter of an engine runs it about once a second.
--
-- $1 text[]: the names of the engine's limits
-- $2 text[]: their declarations
select l.name, l.revision, l.body <> own.body and force.body = own.body as unsettled
from unnest($1::text[], $2::text[]) as own (name, body)
join gen_durable.limits l on l.name = own.name
-- Among the declarations of living workers, the text that appeared last is in force.
cross join lateral (
    select (
        select d.body
        from gen_durable.declarations d
        join gen_durable.workers w on w.id = d.worker
        where d.kind = 'limit' and d.name = own.name and w.lease_expires_at > gen_durable.now()
        order by d.appeared_at desc
        limit 1
    ) as body
) as force
