-- Takes the locks of the partition keys $1, waiting for each, in one order for everybody: for a second,
-- as a claim that has one may take as long.
with lock_timeout_set as materialized (
    select pg_catalog.set_config('lock_timeout', '1s', true)
)
select pg_catalog.pg_advisory_xact_lock(p.key)
from (
    select distinct pg_catalog.hashtextextended(k.partition_key, 5297) as key
    from pg_catalog.unnest($1::text[]) as k (partition_key)
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by 1
) as p
