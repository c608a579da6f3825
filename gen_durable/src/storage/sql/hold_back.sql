-- Takes claimed rows whose limit has no room out of the claim's index, and gives them back. The
-- limiter runs it for the instances that take_turns.sql did not admit.
--
-- Invariant: a row with the bit 16 waits for the bucket `limited_by`, and that bucket has a time at
-- which somebody looks at it (`wakes_at`). Both are written here, in one transaction.
--
-- A row is given back here if that is all there is to do. Others are marked alone, and their worker
-- gives them back as it gives back all rows: one with a partition key, which may let in another
-- row, and one whose cancel is to be answered.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the instances
-- $3 bigint[]: the revisions that the worker holds
-- $4 text[]:   their buckets
-- $5 int[]:    their weights
with held as materialized (
    -- 1. The rows that the worker owns, locked. One that another transaction has locked is left
    --    out: it is given back without a mark, and claimed again. `status || ''` fits no index.
    select h.id, h.bucket, h.weight, l.partition_key is null and coalesce(l.owes, 0) & 4 = 0 as alone
    from rows from (
        unnest($2::bigint[], $3::bigint[], $4::text[], $5::int[]),
        pg_catalog.generate_subscripts($2::bigint[], 1)
    ) as h (id, revision, bucket, weight, nth)
    left join (
        select i.id, i.revision, i.locked_by, i.partition_key, i.owes
        from gen_durable.instances i
        where i.id = any ($2::bigint[]) and i.status || '' = 'executing'
        for no key update skip locked
    ) as l on l.id = h.id
    where case when l.revision = h.revision and l.locked_by = $1 then true else false end
),
marked as (
    -- 2. The same, marked.
    update gen_durable.instances i
    set blocked_by = i.blocked_by | 16,
        limited_by = h.bucket,
        status = case when h.alone then 'runnable' else i.status end,
        locked_by = case when h.alone then null else i.locked_by end,
        revision = case when h.alone then i.revision + 1 else i.revision end,
        unique_released = i.unique_released
            or case when h.alone then 'runnable' else i.status end <> all (i.unique_scope),
        updated_at = gen_durable.now()
    from held h
    where i.id = any (array(select h.id from held h)) and i.id + 0 = h.id
    returning i.id, h.alone, h.bucket, h.weight
),
locked as materialized (
    -- 3. Their buckets, locked in the order in which take_turns.sql locks them.
    select b.bucket, w.weight
    from (
        select m.bucket, pg_catalog.max(m.weight) as weight from marked m group by m.bucket
    ) as w
    join gen_durable.limit_buckets b on b.bucket || '' = w.bucket
    where b.bucket = any (array(select m.bucket from marked m))
    order by b.bucket
    for no key update of b
),
waiting as (
    -- 4. The same, with a time of their next look, which finds out when there is room.
    update gen_durable.limit_buckets b
    set wakes_at = coalesce(b.wakes_at, (extract(epoch from gen_durable.now()) * 1000000)::bigint),
        waits = b.waits + 1,
        -- While a heavy row waits, light ones that come later do not take its room.
        weight = case when b.wakes_at is null then l.weight else greatest(b.weight, l.weight) end
    -- The planner may take `locked` for one row, and then joins in quadratic time. It expects more
    -- of arrays.
    from unnest(array(select l.bucket from locked l), array(select l.weight from locked l))
        as l (bucket, weight)
    where b.bucket = any (array(select l.bucket from locked l)) and b.bucket || '' = l.bucket
)
-- 5. The marked rows, and whether each is given back.
select m.id, m.alone from marked m
