-- Notes that ends are reported, in the transaction that reports them (report.sql). The answer has
-- those that were not yet.
--
-- Invariant: of two transactions that report an end, the second waits here or before, and then
-- finds it reported. `coalesce` fits no index, so the rows are looked up by their ids.
--
-- $1 bigint[]: the ended instances
update gen_durable.instances i
set owes = nullif(i.owes & ~1, 0)
where i.id = any ($1::bigint[]) and coalesce(i.owes, 0) & 1 = 1
returning i.id
