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
