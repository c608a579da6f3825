-- Tells which server process serves the connection. The engine asks before a step runs on it: if
-- the step is cut off, the process is ended by this number.
select pg_catalog.pg_backend_pid()
