-- Lists the instances that wait for a bucket of a limit, in the order in which they come in. Calls
-- of operators run it.
--
-- Invariant: it reads no more rows than it lists, and locks nothing.
--
-- $1 text:   the limit
-- $2 text:   the bucket
-- $3 bigint: the most instances
--
-- Times are microseconds since 1970; null for those that have no such number. `blocked` is true of
-- a row that something else holds back as well. The columns from `used_until` on are as in
-- list_buckets.sql.
select i.id, i.fsm, i.step, i.priority,
       case when pg_catalog.isfinite(i.eligible_at)
            then (extract(epoch from i.eligible_at) * 1000000)::bigint end as eligible_at,
       i.blocked_by <> 16 as blocked,
       b.used_until, l.max_starts, l.max_period, l.max_burst,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as now
from (
    select i.id, i.fsm, i.step, i.priority, i.eligible_at, i.blocked_by
    from gen_durable.instances i
    where i.limited_by = $2::text and i.blocked_by & 16 = 16
    order by i.blocked_by, i.priority, i.eligible_at, i.id
    limit $3::bigint
) as i
left join gen_durable.limit_buckets b on b.bucket = $2::text
left join gen_durable.limits l on l.name = $1::text
order by i.blocked_by, i.priority, i.eligible_at, i.id
