-- Lets the first rows that wait for freed partition keys go on, one for each queue, machine and
-- version. There may be no worker that serves the very first. Each row is back in the claim's index
-- unless it is blocked for another reason too. A claim takes one of them, and blocks the others
-- again. Commits that free keys, the reaper and a maintenance service run it.
--
-- A row that waits for its key has the bit 1 in `blocked_by`.
--
-- Invariant: a key that is held again lets no row in. This transaction has the keys' locks and has
-- freed the keys, and the snapshot is younger than the locks. It shows each row that a claim
-- blocked meanwhile.
--
-- $1 text[]: the partition keys
with recursive kinds (partition_key, queue, fsm, fsm_version) as (
    -- 1. The queues, machines and versions of each key's waiting rows: one descent of the index for
    --    each.
    select k.partition_key, head.queue, head.fsm, head.fsm_version
    from pg_catalog.unnest((select $1::text[])) as k (partition_key)
    cross join lateral (
        select i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.blocked_by & 1 = 1
        order by i.partition_key, i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
    union all
    select k.partition_key, head.queue, head.fsm, head.fsm_version
    from kinds k
    cross join lateral (
        select i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.blocked_by & 1 = 1
          and (i.queue, i.fsm, i.fsm_version) > (k.queue, k.fsm, k.fsm_version)
        order by i.partition_key, i.queue, i.fsm, i.fsm_version
        limit 1
    ) as head
),
heads as materialized (
    -- 2. The most urgent of these rows, locked; null where other transactions have locked all of
    --    them.
    select k.partition_key, head.id
    from unnest(
        array(select partition_key from kinds), array(select queue from kinds),
        array(select fsm from kinds), array(select fsm_version from kinds)
    ) as k (partition_key, queue, fsm, fsm_version)
    left join lateral (
        select i.id
        from gen_durable.instances i
        where i.partition_key = k.partition_key and i.blocked_by & 1 = 1
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
    -- 3. These rows no longer wait for the key.
    update gen_durable.instances i
    set blocked_by = i.blocked_by & ~1
    where i.id = any (array(select h.id from heads h))
    returning i.queue
)
-- 4. The queue of each row that was taken back, and each key of which all rows of some queue,
--    machine and version were locked. The engine unblocks such a key again, as no commit will.
select f.queue, null as locked_key from freed f
union all
select null, h.partition_key from heads h where h.id is null
