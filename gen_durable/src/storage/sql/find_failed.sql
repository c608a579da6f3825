-- Finds failed or cancelled instances of a filter, the newest first. Lists and counts run it.
--
-- Invariant: it examines a bounded number of rows, whatever the filter and however many there are.
-- It says how far it has looked if there are more.
--
-- $1 bigint: the id before which to look
-- $2 bigint: the most instances to find
-- $3 text:   their machine; here and below null for any
-- $4 text:   their status: `failed` or `cancelled`
-- $5 text:   their step
-- $6 text:   their queue
-- $7 int:    their version
-- $8 text:   their partition key
-- $9 text:   their unique key, whether they hold it or not
-- $10 bigint: the time from which on they were changed last, in microseconds since 1970
-- $11 bigint: the time before which they were changed last
with recursive machines (fsm) as (
    -- 1. The machine, or all machines that have such instances: one descent of the index for each.
    (
        select $3::text
        where $3::text is not null
        union all
        (
            select i.fsm
            from gen_durable.instances i
            where i.status in ('failed', 'cancelled') and $3::text is null
            order by i.fsm, i.id
            limit 1
        )
    )
    union all
    select head.fsm
    from machines m
    cross join lateral (
        select i.fsm
        from gen_durable.instances i
        where i.status in ('failed', 'cancelled') and i.fsm > m.fsm
        order by i.fsm, i.id
        limit 1
    ) as head
    where $3::text is null
),
edges as materialized (
    -- 2. The last instance of each machine to examine. None if fewer are left. The numbers are not
    --    parameters, so that the planner knows them.
    select m.fsm, (
        select i.id
        from (
            select n.id
            from gen_durable.instances n
            where n.status in ('failed', 'cancelled') and n.fsm = m.fsm and n.id < $1::bigint
            order by n.id desc
            limit 5000
        ) as i
        order by i.id desc
        offset greatest(1, 5000 / (select pg_catalog.count(*) from machines)) - 1
        limit 1
    ) as id
    from machines m
),
edge as materialized (
    -- 3. All instances from here on are examined, of each machine.
    select pg_catalog.max(e.id) as id from edges e
)
-- 4. The instances that fit, in one array, and the edge.
select array(
           select found.id
           from edges e
           cross join lateral (
               select i.id
               from (
                   -- It is as in find_instances.sql.
                   select n.id, n.status, n.step, n.queue, n.fsm_version, n.partition_key,
                          n.unique_key, n.updated_at
                   from gen_durable.instances n
                   where n.status in ('failed', 'cancelled') and n.fsm = e.fsm
                     and n.id < $1::bigint
                     and n.id >= coalesce((select l.id from edge l), -9223372036854775808)
                   order by n.id desc
                   limit 5000
               ) as i
               where i.status = $4::text
                 and ($5::text is null or i.step = $5::text)
                 and ($6::text is null or i.queue = $6::text)
                 and ($7::int is null or i.fsm_version = $7::int)
                 and ($8::text is null or i.partition_key = $8::text)
                 and ($9::text is null or i.unique_key = $9::text)
                 and ($10::bigint is null or i.updated_at >= timestamptz 'epoch' + $10::bigint * interval '1 microsecond')
                 and ($11::bigint is null or i.updated_at < timestamptz 'epoch' + $11::bigint * interval '1 microsecond')
               order by i.id desc
               limit $2::bigint
           ) as found
           order by found.id desc
           limit $2::bigint
       ) as ids,
       (select l.id from edge l) as edge
