-- Lists actions of operators, the newest first. Looks at the audit run it.
--
-- Invariant: it examines at most ten thousand rows. It says how far it has looked if there are
-- more.
--
-- $1 bigint: the row before which to look
-- $2 bigint: the most rows to list
-- $3 bigint: their instance; here and below null for any
-- $4 text:   their actor
-- $5 text:   their action
-- $6 text:   their machine
--
-- The last row has nothing but `edge`: the row before which others may be, or null. `at` is in
-- microseconds since 1970.
with near as materialized (
    -- 1. The rows to examine. The numbers are not parameters, so that the planner knows them. The
    --    first order is the primary key's, and the second one that of the index by instances.
    (
        select a.id, a.at, a.actor, a.action, a.reason, a.instance_id, a.fsm, a.step, a.queue, a.schedule,
               a.limit_name
        from gen_durable.audit a
        where $3::bigint is null and a.id < $1::bigint
        order by a.id desc
        limit 10000
    )
    union all
    (
        select a.id, a.at, a.actor, a.action, a.reason, a.instance_id, a.fsm, a.step, a.queue, a.schedule,
               a.limit_name
        from gen_durable.audit a
        where a.instance_id between $3::bigint and $3::bigint and a.id < $1::bigint
        order by a.instance_id desc, a.id desc
        limit 10000
    )
),
found as materialized (
    -- 2. Those that fit.
    select n.*
    from near n
    where ($4::text is null or n.actor = $4::text)
      and ($5::text is null or n.action = $5::text)
      and ($6::text is null or n.fsm = $6::text)
    order by n.id desc
    limit $2::bigint
)
select f.id, (extract(epoch from f.at) * 1000000)::bigint as at, f.actor, f.action, f.reason,
       f.instance_id, f.fsm, f.step, f.queue, f.schedule, f.limit_name, null::bigint as edge
from found f
union all
select null, null, null, null, null, null, null, null, null, null, null, case
    -- 3. A full answer may have more behind it, nearer than the last row that was examined.
    when (select pg_catalog.count(*) from found f) >= $2::bigint then (select pg_catalog.min(f.id) from found f)
    when (select pg_catalog.count(*) from near n) >= 10000 then (select pg_catalog.min(n.id) from near n)
end
order by id desc nulls last
