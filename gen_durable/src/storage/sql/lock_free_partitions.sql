-- Takes the lock of each partition key of the candidates $1 that nobody else holds, and returns
-- those keys. The locks end with the transaction; a hash collision only makes a key wait a turn.
with partitions as materialized (
    select distinct i.partition_key
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and i.partition_key is not null
)
select p.partition_key
from partitions p
where pg_try_advisory_xact_lock(hashtextextended(p.partition_key, 5297))
  -- Who has a row of the key executing, uncommitted and without the lock, is none of the engine's. The claim
  -- would wait for that transaction in the index, and the rows that were claimed with it too: not for long.
  and set_config('lock_timeout', '100ms', true) is not null
