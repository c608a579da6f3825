-- Takes the lock of each partition key that no other transaction has locked, and returns these
-- keys. The claimer runs it before claim_partitions.sql.
--
-- Invariant: it waits for no lock. Each lock ends with the transaction. Keys of the same hash share
-- a lock: that only makes one of them wait for a later claim.
--
-- $1 bigint[]: the candidates, the most urgent first
with partitions as materialized (
    -- The keys of the first candidates, 250 at most: a thousand locks would fill a small server's
    -- table of locks.
    select i.partition_key
    from pg_catalog.unnest($1::bigint[]) with ordinality as c (id, place)
    join gen_durable.instances i on i.id = c.id
    where i.partition_key is not null
    group by i.partition_key
    order by pg_catalog.min(c.place)
    limit 250
)
select p.partition_key
from partitions p
where pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(p.partition_key, 5297))
  -- A transaction that makes a row of the key executing without this lock is not the engine's. The
  -- claim would wait for its end in the unique index `instances_partition_holder`, and so would the
  -- rows that were claimed before. This setting bounds the wait.
  and pg_catalog.set_config('lock_timeout', '100ms', true) is not null
