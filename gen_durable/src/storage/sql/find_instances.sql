-- Finds instances of a filter among those just before an id, the newest first. Lists and counts run
-- it, unless an index has the filter's status (find_busy.sql, find_failed.sql).
--
-- Invariant: it examines a bounded number of rows, whatever the filter and however many there are.
-- It says how far it has looked if there are more.
--
-- $1 bigint: the id before which to look
-- $2 bigint: the most instances to find
-- $3 text:   their machine; here and below null for any
-- $4 text:   their status
-- $5 text:   their step
-- $6 text:   their queue
-- $7 int:    their version
-- $8 text:   their partition key
-- $9 text:   their unique key, whether they hold it or not
-- $10 bigint: the time from which on they were changed last, in microseconds since 1970
-- $11 bigint: the time before which they were changed last
with edge as materialized (
    -- 1. The last instance to examine. None if fewer are left. The number is not a parameter, so
    --    that the planner knows it.
    select (
        select i.id
        from gen_durable.instances i
        where i.id < $1::bigint
        order by i.id desc
        offset 9999
        limit 1
    ) as id
)
-- 2. The instances that fit, in one array, and the edge.
select array(
           select i.id
           from (
               -- The primary key is read backwards, until enough rows fit. With the limit the
               -- filter stays outside: Postgres must not choose another index for it.
               select n.id, n.fsm, n.status, n.step, n.queue, n.fsm_version, n.partition_key,
                      n.unique_key, n.updated_at
               from gen_durable.instances n
               where n.id < $1::bigint
                 and n.id >= coalesce((select e.id from edge e), -9223372036854775808)
               order by n.id desc
               limit 10000
           ) as i
           where ($3::text is null or i.fsm = $3::text)
             and ($4::text is null or i.status = $4::text)
             and ($5::text is null or i.step = $5::text)
             and ($6::text is null or i.queue = $6::text)
             and ($7::int is null or i.fsm_version = $7::int)
             and ($8::text is null or i.partition_key = $8::text)
             and ($9::text is null or i.unique_key = $9::text)
             and ($10::bigint is null or i.updated_at >= timestamptz 'epoch' + $10::bigint * interval '1 microsecond')
             and ($11::bigint is null or i.updated_at < timestamptz 'epoch' + $11::bigint * interval '1 microsecond')
           order by i.id desc
           limit $2::bigint
       ) as ids,
       (select e.id from edge e) as edge
