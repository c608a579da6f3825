-- Up to $2 partition keys after $1 (from the first if null) that have waiting rows, and whether they
-- are stranded: nobody holds the key, and of some queue, machine and version that waits a claim can
-- find no row. None are, unless the row to go next was locked by somebody when its key was freed.
--
-- `blocked` is compared in a way that no index serves: the claim's index, which knows no keys, would be
-- read for each of them.
with recursive partitions (partition_key) as (
    select pg_catalog.min(i.partition_key) from gen_durable.instances i
    where i.blocked and ($1::text is null or i.partition_key > $1)
    union all
    select (
        select pg_catalog.min(i.partition_key) from gen_durable.instances i
        where i.blocked and i.partition_key > p.partition_key
    )
    from partitions p
    where p.partition_key is not null
)
select p.partition_key,
       not exists (
           select from gen_durable.instances h
           where h.partition_key = p.partition_key and h.status = 'executing'
       )
       and exists (
           with recursive kinds (queue, fsm, fsm_version) as (
               (
                   select i.queue, i.fsm, i.fsm_version
                   from gen_durable.instances i
                   where i.partition_key = p.partition_key and i.blocked
                   order by i.partition_key, i.queue, i.fsm, i.fsm_version
                   limit 1
               )
               union all
               select head.queue, head.fsm, head.fsm_version
               from kinds k
               cross join lateral (
                   select i.queue, i.fsm, i.fsm_version
                   from gen_durable.instances i
                   where i.partition_key = p.partition_key and i.blocked
                     and (i.queue, i.fsm, i.fsm_version) > (k.queue, k.fsm, k.fsm_version)
                   order by i.partition_key, i.queue, i.fsm, i.fsm_version
                   limit 1
               ) as head
           )
           select from kinds k
           where not exists (
               select from gen_durable.instances i
               where i.partition_key = p.partition_key
                 and i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
                 and i.status = 'runnable' and i.blocked::int = 0 and i.eligible_at <= gen_durable.now()
           )
       ) as stranded
from partitions p
where p.partition_key is not null
limit $2
