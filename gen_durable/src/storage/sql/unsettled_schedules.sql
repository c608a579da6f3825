-- Finds the schedules of an engine whose declaration is in force, and whose row is missing or is
-- reckoned by another one. An engine runs it at its start, when other workers are alive than
-- before, when something is due that is not its own, and now and again.
--
-- $1 text[]: the names of the engine's schedules
-- $2 text[]: their declarations
--
-- The times are in microseconds since 1970. All but the name and `now` are null if there is no row.
select own.name,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as now,
       s.revision,
       (extract(epoch from s.next_at) * 1000000)::bigint as next_at,
       (extract(epoch from s.passed_at) * 1000000)::bigint as passed_at,
       s.skipped
from unnest($1::text[], $2::text[]) as own (name, body)
-- Among the declarations of living workers, the text that appeared last is in force.
cross join lateral (
    select d.body
    from gen_durable.declarations d
    join gen_durable.workers w on w.id = d.worker
    where d.kind = 'schedule' and d.name = own.name and w.lease_expires_at > gen_durable.now()
    order by d.appeared_at desc
    limit 1
) as force
left join gen_durable.schedules s on s.name = own.name
where force.body = own.body and s.body is distinct from own.body
