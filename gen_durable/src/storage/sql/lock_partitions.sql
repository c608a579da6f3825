-- Takes the locks of the partition keys $1, waiting for each, in one order for everybody.
select pg_advisory_xact_lock(p.key)
from (
    select distinct hashtextextended(k.partition_key, 5297) as key
    from unnest($1::text[]) as k (partition_key)
    order by 1
) as p
