-- Takes rows that come after the candidate $1 out of the claim's index, if they wait for one of the
-- keys $2 that are held: where one claim found little else there is likely to be more, and each claim
-- would find some hundreds. So many at once as takes some tens of milliseconds, as whoever frees one of
-- these keys waits for it.
--
-- This transaction holds the keys' locks, and the snapshot is younger than the locks: who is seen to hold
-- a key has yet to free it, and takes the next row back then.
with last as materialized (
    select i.queue, i.fsm, i.fsm_version, i.priority, i.eligible_at, i.id
    from gen_durable.instances i
    where i.id = $1
),
partitions as materialized (
    -- Not "exists", which may be planned as a look at all that executes.
    select p.partition_key, (
        select true from gen_durable.instances h
        where h.partition_key = p.partition_key and h.status = 'executing'
        limit 1
    ) is not null as busy
    from pg_catalog.unnest($2::text[]) as p (partition_key)
),
ahead as materialized (
    select row.id, row.partition_key
    from last l
    cross join lateral (
        select i.id, i.partition_key
        from gen_durable.instances i
        where i.queue = l.queue and i.fsm = l.fsm and i.fsm_version = l.fsm_version
          and i.priority = l.priority
          and i.status = 'runnable' and not i.blocked and i.eligible_at <= gen_durable.now()
          and (i.eligible_at, i.id) > (l.eligible_at, l.id)
        order by i.eligible_at, i.id
        limit 2000
    ) as row
),
waiting as materialized (
    select row.id
    from pg_catalog.unnest(array(
        select a.id from ahead a
        where a.partition_key in (select p.partition_key from partitions p where p.busy)
    )) as a (id)
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.id = a.id and i.status || '' = 'runnable' and not i.blocked
        for no key update skip locked
    ) as row
)
update gen_durable.instances i
set blocked = true
where i.id = any (array(select w.id from waiting w))
