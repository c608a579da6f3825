-- Lists partition keys that have blocked rows, and says if they are stranded: no executing row
-- holds the key, and some queue, machine and version has blocked rows and no row that a claim can
-- find. A maintenance service runs it.
--
-- A key is stranded only if another transaction had the row that goes next locked when the key was
-- freed.
--
-- $1 text:   the key after which to begin; null begins with the first
-- $2 bigint: the most keys to list
with recursive partitions (partition_key) as (
    -- 1. The keys that have blocked rows: one descent of the index for each.
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
               -- 2. The queues, machines and versions (kinds) of the key's blocked rows: one
               --    descent for each.
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
           -- 3. The kinds that have no due row in the claim's index. `blocked` is compared in a way
           --    that fits no index. Otherwise the claim's index, which knows no keys, would be read
           --    for each kind.
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
