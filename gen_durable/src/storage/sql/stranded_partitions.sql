-- Lists partition keys that have rows which wait for them, and says if they are stranded. Then no
-- executing row holds the key, no row that is blocked for another reason goes next, and some queue,
-- machine and version has waiting rows and no row that a claim can find. A maintenance service runs
-- it.
--
-- A key is stranded if another transaction had the row that goes next locked when the key was
-- freed, or if that row was blocked for another reason and then did not run.
--
-- A row that waits for its key has the bit 1 in `blocked_by`. The row that goes next is the first
-- due one of any machine, also of one that no worker runs. While such a row is blocked for another
-- reason, the rows behind it wait.
--
-- $1 text:   the key after which to begin; null begins with the first
-- $2 bigint: the most keys to list
with recursive partitions (partition_key) as (
    -- 1. The keys that have waiting rows: one descent of the index for each.
    select pg_catalog.min(i.partition_key) from gen_durable.instances i
    where i.blocked_by & 1 = 1 and ($1::text is null or i.partition_key > $1)
    union all
    select (
        select pg_catalog.min(i.partition_key) from gen_durable.instances i
        where i.blocked_by & 1 = 1 and i.partition_key > p.partition_key
    )
    from partitions p
    where p.partition_key is not null
)
select p.partition_key,
       not exists (
           select from gen_durable.instances h
           where h.partition_key = p.partition_key and h.status = 'executing'
       )
       -- 2. The first due row of the key is not blocked for another reason.
       and coalesce((
           select i.blocked_by & ~1 = 0
           from gen_durable.instances i
           where i.partition_key = p.partition_key and i.status = 'runnable'
             and i.eligible_at <= gen_durable.now()
           order by i.priority, i.eligible_at, i.id
           limit 1
       ), true)
       and exists (
           with recursive kinds (queue, fsm, fsm_version) as (
               -- 3. The queues, machines and versions (kinds) of the key's waiting rows: one
               --    descent for each.
               (
                   select i.queue, i.fsm, i.fsm_version
                   from gen_durable.instances i
                   where i.partition_key = p.partition_key and i.blocked_by & 1 = 1
                   order by i.partition_key, i.queue, i.fsm, i.fsm_version
                   limit 1
               )
               union all
               select head.queue, head.fsm, head.fsm_version
               from kinds k
               cross join lateral (
                   select i.queue, i.fsm, i.fsm_version
                   from gen_durable.instances i
                   where i.partition_key = p.partition_key and i.blocked_by & 1 = 1
                     and (i.queue, i.fsm, i.fsm_version) > (k.queue, k.fsm, k.fsm_version)
                   order by i.partition_key, i.queue, i.fsm, i.fsm_version
                   limit 1
               ) as head
           )
           -- 4. The kinds that have no due row in the claim's index. `blocked_by` is compared in a
           --    way that fits no index. Otherwise the claim's index, which knows no keys, would be
           --    read for each kind.
           select from kinds k
           where not exists (
               select from gen_durable.instances i
               where i.partition_key = p.partition_key
                 and i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
                 and i.status = 'runnable' and i.blocked_by + 0 = 0 and i.eligible_at <= gen_durable.now()
           )
       ) as stranded
from partitions p
where p.partition_key is not null
limit $2
