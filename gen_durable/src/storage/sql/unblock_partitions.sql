-- Takes the first waiting row of each partition key in $1 back into the claim's index, unless the
-- key is held again. This transaction holds the keys' locks and has freed the keys, and the
-- snapshot is younger than the locks: a row that a claim blocked meanwhile is seen.
with heads as materialized (
    select head.id
    from unnest($1::text[]) as k (partition_key)
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.status = 'runnable' and i.blocked
        order by i.priority, i.eligible_at, i.id
        limit 1
        for no key update skip locked
    ) as head
    where not exists (
        select from gen_durable.instances h
        where h.partition_key = k.partition_key and h.status = 'executing'
    )
)
update gen_durable.instances i
set blocked = false
where i.id = any (array(select h.id from heads h))
returning i.queue
