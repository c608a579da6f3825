-- Finds which of these ended instances are still to be reported, with their receivers. The process
-- that has ended them runs it, and goes on as after owed.sql.
--
-- Invariant: it looks at these rows alone, however many reports are owed: `coalesce` fits no index.
--
-- $1 bigint[]: the ended instances
select i.id, i.report_to
from gen_durable.instances i
where i.id = any ($1::bigint[]) and coalesce(i.owes, 0) & 1 = 1 and i.report_to is not null
