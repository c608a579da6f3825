-- Reads all of an instance. Calls that look at one run it.
--
-- Invariant: one row, or none if there is no such instance. It locks nothing.
--
-- $1 bigint: the instance
--
-- Times are microseconds since 1970; null for none, and for those that have no such number.
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
            then (extract(epoch from i.finished_at) * 1000000)::bigint end as finished_at
from gen_durable.instances i
left join gen_durable.workers w on w.id = i.locked_by
where i.id = $1
