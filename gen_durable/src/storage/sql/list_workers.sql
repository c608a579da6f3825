-- Lists workers, the oldest first, and counts the rows that each has claimed. Looks at workers run
-- it.
--
-- Invariant: it examines at most ten thousand claimed rows of all workers together, those of the
-- oldest workers.
--
-- $1 bigint: the most workers
--
-- `capped` says that the worker may have claimed more. Times are microseconds since 1970.
with claimed as materialized (
    -- 1. The rows. The order makes Postgres take the lease index, whatever the statistics say. The
    --    number is not a parameter, so that the planner knows it.
    select i.locked_by
    from gen_durable.instances i
    where i.locked_by is not null
    order by i.locked_by
    limit 10001
),
counts as materialized (
    select c.locked_by, pg_catalog.count(*) as claimed from claimed c group by c.locked_by
),
edge as materialized (
    -- 2. The worker whose rows are the last to be counted, if not all are.
    select case when pg_catalog.count(*) > 10000 then pg_catalog.max(c.locked_by) end as worker from claimed c
)
-- 3. The workers.
select w.id, w.name, w.host, w.pid, w.library, w.queues, w.slots, w.fsms, w.fsm_versions,
       (extract(epoch from w.started_at) * 1000000)::bigint as started_at,
       (extract(epoch from w.lease_expires_at) * 1000000)::bigint as lease_expires_at,
       w.lease_expires_at > gen_durable.now() as alive,
       coalesce(c.claimed, 0) as claimed,
       coalesce(w.id >= (select e.worker from edge e), false) as capped
from (
    select l.* from gen_durable.workers l order by l.id limit $1::bigint
) as w
left join counts c on c.locked_by = w.id
order by w.id
