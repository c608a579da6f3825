-- Finds ends that are still to be reported, a page at a time, with their receivers. The service
-- `reports` runs it. Then the rows and their receivers are locked, and the reports are delivered
-- (settle_owed.sql, report.sql).
--
-- Invariant: it locks nothing, and an end that it finds may be reported by others meanwhile.
--
-- $1 bigint: the id behind which the page begins
-- $2 bigint: the most to find
select i.id, i.report_to
from gen_durable.instances i
where i.owes is not null and i.owes & 1 = 1 and i.id > $1
order by i.id
limit $2
