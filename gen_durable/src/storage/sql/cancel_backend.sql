-- Cancels the statement that a server process runs, if any. The engine runs it when a step is cut
-- off in its transaction, before it closes the step's connection.
--
-- $1 int: the server process
select pg_catalog.pg_cancel_backend($1)
