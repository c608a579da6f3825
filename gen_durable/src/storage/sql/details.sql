-- Reads all of an instance. Calls that look at one run it.
--
-- Invariant: one row, or none if there is no such instance. It locks nothing.
--
-- $1 bigint: the instance
--
-- Times are microseconds since 1970; null for none, and for those that have no such number.
-- `limited_by` is the bucket for which the instance waits, and null if it waits for none. The
-- columns after it are as in list_buckets.sql, and `ahead` counts the instances that come in before
-- it, up to 1,000.
select i.id, i.fsm, i.fsm_version, i.status, i.step, i.state::text as state, i.result::text as result,
       i.last_error, i.attempt, i.failures, i.crashes, i.queue, i.priority, i.partition_key,
       i.unique_key, i.unique_guard is not null as holds_key, i.awaits, i.awaits_more, i.report_to,
       i.locked_by as worker, w.name as worker_name,
       case when pg_catalog.isfinite(i.eligible_at)
            then (extract(epoch from i.eligible_at) * 1000000)::bigint end as eligible_at,
       case when pg_catalog.isfinite(i.wake_at)
            then (extract(epoch from i.wake_at) * 1000000)::bigint end as wake_at,
       case when pg_catalog.isfinite(i.cancelled_at)
            then (extract(epoch from i.cancelled_at) * 1000000)::bigint end as cancelled_at,
       case when pg_catalog.isfinite(i.inserted_at)
            then (extract(epoch from i.inserted_at) * 1000000)::bigint end as inserted_at,
       case when pg_catalog.isfinite(i.updated_at)
            then (extract(epoch from i.updated_at) * 1000000)::bigint end as updated_at,
       case when pg_catalog.isfinite(i.finished_at)
            then (extract(epoch from i.finished_at) * 1000000)::bigint end as finished_at,
       limited.*
from gen_durable.instances i
left join gen_durable.workers w on w.id = i.locked_by
left join lateral (
    select i.limited_by, b.used_until, l.max_starts, l.max_period, l.max_burst,
           (extract(epoch from gen_durable.now()) * 1000000)::bigint as now,
           (
               select pg_catalog.count(*)
               from (
                   select
                   from gen_durable.instances a
                   where a.limited_by = i.limited_by and a.blocked_by & 16 = 16
                     and (a.blocked_by, a.priority, a.eligible_at, a.id)
                         < (i.blocked_by, i.priority, i.eligible_at, i.id)
                   limit 1000
               ) as a
           ) as ahead
    from (select) as one
    left join gen_durable.limit_buckets b on b.bucket = i.limited_by
    left join gen_durable.limits l on l.name = pg_catalog.split_part(i.limited_by, pg_catalog.chr(31), 1)
    where i.blocked_by & 16 = 16
) as limited on true
where i.id = $1
