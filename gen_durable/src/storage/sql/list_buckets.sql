-- Lists the buckets of a limit by their keys: what runs in each, and how many wait. Calls of
-- operators run it.
--
-- Invariant: it locks nothing, so no engine waits for it.
--
-- $1 text:   the limit
-- $2 text:   lists those after this bucket; empty for the first ones
-- $3 bigint: the most buckets
-- $4 bigint: the most waiting instances of each that it counts
--
-- Times are microseconds since 1970. The columns from `used_until` on tell when the next one can
-- come in: the time until which the starts so far use the rate up, and the bounds in force.
select b.bucket,
       (
           -- The runs of a lost worker count for a while.
           select coalesce(pg_catalog.sum(h.held), 0)::bigint
           from unnest(b.workers, b.held) as h (worker, held)
           where gen_durable.holds(h.worker)
       ) as running,
       (
           select pg_catalog.count(*)
           from (
               select
               from gen_durable.instances i
               where i.limited_by = b.bucket and i.blocked_by & 16 = 16
               limit $4::bigint
           ) as i
       ) as waiting,
       b.used_until, l.max_starts, l.max_period, l.max_burst,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as now
from (
    -- The buckets of a name are the name, and the name with the character 31 and a key. Those of
    -- another limit may lie between them.
    select b.bucket, b.workers, b.held, b.used_until
    from gen_durable.limit_buckets b
    where b.bucket >= $1::text and b.bucket < $1::text || ' ' and b.bucket > $2::text
      and b.limit_name = $1::text
    order by b.bucket
    limit $3::bigint
) as b
left join gen_durable.limits l on l.name = $1::text
order by b.bucket
