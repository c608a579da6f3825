-- Ends a server process, and with it the transaction that it has open. The engine runs it when a
-- step is cut off in its transaction, and closes the step's connection: a statement may be under
-- way, and the process may never notice that its client is gone.
--
-- $1 int: the server process
select pg_catalog.pg_terminate_backend($1)
