-- Tells what became of rows that a commit did not find as its own. The flusher learns from it why:
-- another transaction has the row locked, the worker no longer owns it, or an earlier try made the
-- outcome durable.
--
-- Invariant: one row for each instance that exists.
--
-- $1 bigint[]: the instances
select i.id, i.status, i.locked_by, i.revision, coalesce(i.owes, 0) & 4 = 4 as asked
from gen_durable.instances i
where i.id = any ($1::bigint[])
