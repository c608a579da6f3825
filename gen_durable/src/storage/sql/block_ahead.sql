-- Takes rows that wait for busy partition keys out of the claim's index. It runs for a claim that
-- found little else: more such rows are likely to follow, and each later claim would find some
-- hundreds of them.
--
-- Invariant: a row is made to wait only while another row holds its key. This transaction has the
-- locks of the keys, and the snapshot is younger than the locks. Each holder in the snapshot has
-- yet to free its key, and takes the next row back then.
--
-- $1 bigint: the last candidate of the claim: the rows after it are looked at
-- $2 text[]: the partition keys that many candidates wait for
--
-- `status || ''` fits no index: rows whose ids are known are looked up by id alone, as in
-- claim_partitions.sql.
with last as materialized (
    -- 1. The place of the candidate in the claim's index.
    select i.queue, i.fsm, i.fsm_version, i.priority, i.eligible_at, i.id
    from gen_durable.instances i
    where i.id = $1
),
partitions as materialized (
    -- 2. The keys, and if an executing row holds them (`busy`). A subquery with a limit stands for
    --    "exists", which may be planned as a scan of all executing rows.
    select p.partition_key, (
        select true from gen_durable.instances h
        where h.partition_key = p.partition_key and h.status = 'executing'
        limit 1
    ) is not null as busy
    from pg_catalog.unnest($2::text[]) as p (partition_key)
),
ahead as materialized (
    -- 3. The due rows that follow in the same queue, machine, version and priority. Two thousand
    --    take some tens of milliseconds, and a commit that frees one of the keys waits that long.
    select row.id, row.partition_key
    from last l
    cross join lateral (
        select i.id, i.partition_key
        from gen_durable.instances i
        where i.queue = l.queue and i.fsm = l.fsm and i.fsm_version = l.fsm_version
          and i.priority = l.priority
          and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
          and (i.eligible_at, i.id) > (l.eligible_at, l.id)
        order by i.eligible_at, i.id
        limit 2000
    ) as row
),
waiting as materialized (
    -- 4. The rows among them that wait for a busy key, locked. Rows that another transaction has
    --    locked stay in the index.
    select row.id
    from pg_catalog.unnest(array(
        select a.id from ahead a
        where a.partition_key in (select p.partition_key from partitions p where p.busy)
    )) as a (id)
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.id = a.id and i.status || '' = 'runnable' and i.blocked_by = 0
        for no key update skip locked
    ) as row
)
update gen_durable.instances i
set blocked_by = i.blocked_by | 1
where i.id = any (array(select w.id from waiting w))
