-- Up to $2 partition keys after $1 (from the first if null) that have waiting rows but neither a holder nor a row that a
-- claim can find. There are none unless the row to go next was locked by somebody when its key was
-- freed.
with recursive partitions (partition_key) as (
    select min(i.partition_key) from gen_durable.instances i
    where i.blocked and ($1::text is null or i.partition_key > $1)
    union all
    select (
        select min(i.partition_key) from gen_durable.instances i
        where i.blocked and i.partition_key > p.partition_key
    )
    from partitions p
    where p.partition_key is not null
)
select p.partition_key,
       not exists (
           select from gen_durable.instances i
           where i.partition_key = p.partition_key
             and (i.status = 'executing' or (i.status = 'runnable' and not i.blocked))
       ) as stranded
from partitions p
where p.partition_key is not null
limit $2
