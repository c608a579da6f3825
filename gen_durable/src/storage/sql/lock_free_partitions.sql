-- Takes the lock of each partition key of the candidates $1 that nobody else holds, and returns
-- those keys: of the first 250, as a thousand locks would fill a small server's table of locks. The
-- locks end with the transaction; a hash collision only makes a key wait a turn.
with partitions as materialized (
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
  -- Who has a row of the key executing, uncommitted and without the lock, is none of the engine's. The claim
  -- would wait for that transaction in the index, and the rows that were claimed with it too: not for long.
  and pg_catalog.set_config('lock_timeout', '100ms', true) is not null
