-- Notes that ends are reported, in the transaction that reports them (report.sql). The answer has
-- those that were not yet.
--
-- Invariant: of two transactions that report an end, the second waits here or before, and then
-- finds it reported.
--
-- $1 bigint[]: the ended instances
update gen_durable.instances i
set owes_report = null
where i.id = any ($1::bigint[]) and i.owes_report is not null
returning i.id
