-- Finds partition keys whose rows wait behind one that does not go on: it is paused, or no living
-- worker runs it. The doctor runs it.
--
-- Invariant: one descent of an index for each of five hundred keys that have waiting rows, and at
-- most a thousand rows of each that it finds.
--
-- paused: true if the first row is paused; otherwise no living worker runs it
with recursive keys (partition_key) as (
    -- 1. The keys that have waiting rows, as in stranded_partitions.sql.
    select pg_catalog.min(i.partition_key) from gen_durable.instances i
    where i.blocked_by & 1 = 1
    union all
    select (
        select pg_catalog.min(i.partition_key) from gen_durable.instances i
        where i.blocked_by & 1 = 1 and i.partition_key > k.partition_key
    )
    from keys k
    where k.partition_key is not null
),
known as materialized (
    select k.partition_key from keys k where k.partition_key is not null limit 500
),
first as materialized (
    -- 2. The first due row of each, if no row of the key runs.
    select k.partition_key, f.id, f.queue, f.fsm, f.fsm_version, f.blocked_by
    from known k
    cross join lateral (
        select i.id, i.queue, i.fsm, i.fsm_version, i.blocked_by
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.status = 'runnable'
          and i.eligible_at <= gen_durable.now()
        order by i.priority, i.eligible_at, i.id
        limit 1
    ) as f
    where not exists (
        select from gen_durable.instances h
        where h.partition_key = k.partition_key and h.status = 'executing'
    )
)
-- 3. The keys whose first row does not go on. Either it is paused (bits 4 and 8 of `blocked_by`).
--    Or it does not wait for its key (bit 1), and no living worker runs its machine in its queue.
--    The count is of the rows that wait behind it.
select f.partition_key, f.id, f.blocked_by & 12 <> 0 as paused, held.count
from first f
cross join lateral (
    select pg_catalog.count(*) as count
    from (
        select i.partition_key
        from gen_durable.instances i
        where i.partition_key between f.partition_key and f.partition_key and i.blocked_by & 1 = 1
        order by i.partition_key
        limit 1001
    ) as n
) as held
where f.blocked_by & 12 <> 0
   or f.blocked_by & 1 = 0 and not exists (
       select from gen_durable.workers w
       where w.lease_expires_at > gen_durable.now() and f.queue = any (w.queues)
         and exists (
             select from unnest(w.fsms, w.fsm_versions) as k (fsm, fsm_version)
             where k.fsm = f.fsm and k.fsm_version = f.fsm_version
         )
   )
order by f.partition_key
limit 100
