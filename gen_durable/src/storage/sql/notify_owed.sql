-- Tells the listening engines, with the transaction, that something is owed (owed.sql). Calls of
-- operators run it.
--
-- Invariant: Postgres tells them only if the transaction commits.
select pg_catalog.pg_notify('gen_durable_owed', '')
