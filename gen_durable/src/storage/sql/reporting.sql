-- Finds the instances that report to others, among those that were inserted just after an instance.
-- Looks at trees run it: a child has a higher id than its parent, and no index has its receiver.
--
-- Invariant: it examines at most ten thousand rows. It says how far it has looked if there are
-- more.
--
-- $1 bigint: the instance after which to look
with near as materialized (
    -- The primary key is read on from there. With the limit the filter stays outside: Postgres must
    -- not choose another index for it.
    select i.id, i.report_to
    from gen_durable.instances i
    where i.id > $1::bigint
    order by i.id
    limit 10000
)
select array(select n.id from near n where n.report_to is not null order by n.id) as ids,
       array(select n.report_to from near n where n.report_to is not null order by n.id) as receivers,
       case when (select pg_catalog.count(*) from near n) >= 10000
            then (select pg_catalog.max(n.id) from near n) end as edge
