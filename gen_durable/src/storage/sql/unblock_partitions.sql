-- Takes the first waiting rows of each partition key in $1 back into the claim's index, unless the
-- key is held again: one for each queue, machine and version that waits, as nobody may be there who
-- serves the very first. The claim takes one of them and blocks the others again.
--
-- This transaction holds the keys' locks and has freed the keys, and the snapshot is younger than
-- the locks: a row that a claim blocked meanwhile is seen.
--
-- The answer has a row for each that was taken back, with its queue, and one for each key of which
-- somebody had locked all that waits for some machine and version: nobody else would free it again.
with recursive kinds (partition_key, queue, fsm, fsm_version) as (
    select k.partition_key, head.queue, head.fsm, head.fsm_version
    from pg_catalog.unnest((select $1::text[])) as k (partition_key)
    cross join lateral (
        select i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.blocked
        order by i.partition_key, i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
    union all
    select k.partition_key, head.queue, head.fsm, head.fsm_version
    from kinds k
    cross join lateral (
        select i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.blocked
          and (i.queue, i.fsm, i.fsm_version) > (k.queue, k.fsm, k.fsm_version)
        order by i.partition_key, i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
),
heads as materialized (
    select k.partition_key, head.id
    from unnest(
        array(select partition_key from kinds), array(select queue from kinds),
        array(select fsm from kinds), array(select fsm_version from kinds)
    ) as k (partition_key, queue, fsm, fsm_version)
    left join lateral (
        select i.id
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.blocked
          and i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
        order by i.priority, i.eligible_at, i.id
        limit 1
        for no key update skip locked
    ) as head on true
    where not exists (
        select from gen_durable.instances h
        where h.partition_key = k.partition_key and h.status = 'executing'
    )
),
freed as (
    update gen_durable.instances i
    set blocked = false
    where i.id = any (array(select h.id from heads h))
    returning i.queue
)
select f.queue, null as locked_key from freed f
union all
select null, h.partition_key from heads h where h.id is null
