-- Tells which server process serves the connection. The engine asks before a step runs on it: a
-- statement that is under way when the step is cut off is cancelled by this number.
select pg_catalog.pg_backend_pid()
