-- Finds what is still to be done for rows, a page at a time. The service `debts` runs it now
-- and then, and when it is told that something is owed.
--
-- Invariant: it locks nothing, and others may do what it finds meanwhile.
--
-- $1 bigint: the id behind which the page begins
-- $2 bigint: the most rows to find
--
-- owes:          the bits of the column
-- executing:     true if a run may be under way
-- locked_by:     the worker that has the run
select i.id, i.owes::int as owes, i.report_to, i.partition_key,
       i.status = 'executing' as executing, i.locked_by
from gen_durable.instances i
where i.owes is not null and i.id > $1
order by i.id
limit $2
