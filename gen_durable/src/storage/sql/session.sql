-- For a connection of the engine's own, which runs a few statements for as long as it lives.
--
-- One plan for each, whatever the parameters: a plan for the parameters costs a millisecond each of the
-- first five times, and is no better, as the statements look rows up by their keys. That plan is kept
-- until the statistics change. If it was made when a table was empty, it must not read and sort the whole
-- table when it is full, but take rows in the order of an index. And none is worth compiling, which
-- takes a hundred times as long as they do.
--
-- A single statement is a transaction with the session's isolation level and lock timeout. The engine
-- gives no statement up in less than a second. So the backend of one that was given up does not wait on:
-- a table that is locked for long would fill the server with them. Operators and types are found where
-- Postgres has its own, whatever the database's search path is.
select pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
       pg_catalog.set_config('enable_seqscan', 'off', false),
       pg_catalog.set_config('enable_bitmapscan', 'off', false),
       pg_catalog.set_config('jit', 'off', false),
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       pg_catalog.set_config('search_path', pg_catalog.concat_ws(
           ', ', 'pg_catalog', nullif(pg_catalog.current_setting('search_path'), '')
       ), false),
       pg_catalog.set_config('lock_timeout', '1s', false),
       -- Begun or failed: in a transaction that has failed, what it set for itself is undone.
       pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', false),
       -- A statement that was given up ends with its connection. Linux can tell, and not every system.
       case when pg_catalog.version() ~ 'linux' then
           pg_catalog.set_config('client_connection_check_interval', '1s', false)
       end
