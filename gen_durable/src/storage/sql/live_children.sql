-- Finds the receivers to which a live child has still to report, among the instances that were
-- inserted just after one. The doctor runs it. No index has the receivers of reports.
--
-- Invariant: it examines at most ten thousand rows. It says how far it has looked if there are
-- more.
--
-- $1 bigint:   the instance after which to look
-- $2 bigint[]: the receivers
with near as materialized (
    -- The primary key is read on from there, as in reporting.sql.
    select i.id, i.report_to, i.status, i.owes
    from gen_durable.instances i
    where i.id > $1::bigint
    order by i.id
    limit 10000
)
select array(
           select distinct n.report_to
           from near n
           where n.report_to = any ($2::bigint[])
             -- The end of one may be still to be reported.
             and (n.status in ('runnable', 'executing', 'awaiting_signal') or coalesce(n.owes, 0) & 1 = 1)
       ) as receivers,
       case when (select pg_catalog.count(*) from near n) >= 10000
            then (select pg_catalog.max(n.id) from near n) end as edge
