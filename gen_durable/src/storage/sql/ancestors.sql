-- Follows an instance's reports to their receivers. Looks at trees run it.
--
-- Invariant: it goes up a hundred instances at most, whether they report in a circle or not.
--
-- $1 bigint: the instance
with recursive line (id, report_to, height) as (
    select i.id, i.report_to, 0
    from gen_durable.instances i
    where i.id = $1::bigint
    union all
    select r.id, r.report_to, l.height + 1
    from line l
    join gen_durable.instances r on r.id = l.report_to
    where l.height < 100
)
select l.id, l.report_to from line l order by l.height
