-- Takes the locks of partition keys, and waits for each. A transaction runs it before
-- unblock_partitions.sql.
--
-- Invariant: all transactions that wait take these locks in one order, that of the hashes, so they
-- cannot wait for each other in a circle.
--
-- $1 text[]: the partition keys
with lock_timeout_set as materialized (
    -- It waits a second for a lock, because a claim that has the lock may take that long. The count
    -- is read below (`>= 0` is always true), so the timeout is set first.
    select pg_catalog.set_config('lock_timeout', '1s', true)
)
select pg_catalog.pg_advisory_xact_lock(p.key)
from (
    select distinct pg_catalog.hashtextextended(k.partition_key, 5297) as key
    from pg_catalog.unnest($1::text[]) as k (partition_key)
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by 1
) as p
