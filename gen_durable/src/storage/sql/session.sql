-- Sets up a connection of the engine's own, which runs the same few statements for as long as it
-- lives.
--
-- Invariant: these settings last as long as the connection, whatever the database and the role have
-- set.
--
-- Each statement gets one plan, whatever its parameters. Plans for the parameters would cost a
-- millisecond each of the first five times. They would be no better, as the statements look rows up
-- by their keys.
select pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
       -- Postgres keeps that plan until the statistics change. If it was made for an empty table,
       -- it must not read and sort the whole table once that is full. It must take rows in the
       -- order of an index.
       pg_catalog.set_config('enable_seqscan', 'off', false),
       pg_catalog.set_config('enable_bitmapscan', 'off', false),
       -- Compiling a statement takes a hundred times as long as running it.
       pg_catalog.set_config('jit', 'off', false),
       -- A single statement is a transaction with the session's isolation level and lock timeout.
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       -- Operators and types are found where Postgres has its own, whatever the database's search
       -- path is.
       pg_catalog.set_config('search_path', pg_catalog.concat_ws(
           ', ', 'pg_catalog', nullif(pg_catalog.current_setting('search_path'), '')
       ), false),
       -- The engine gives a statement up after a second at the earliest, and Postgres ends one that
       -- waits for a lock before that. Otherwise, while a table is locked, the backends of
       -- statements that were given up would fill the server.
       pg_catalog.set_config('lock_timeout', '800ms', false),
       -- A transaction sets this for itself (begin.sql). In one that has failed, Postgres has
       -- undone that setting.
       pg_catalog.set_config('idle_in_transaction_session_timeout', '10s', false),
       -- A statement that the engine gave up ends when its connection is closed. Postgres can
       -- notice that on Linux, but not on every system.
       case when pg_catalog.version() ~ 'linux' then
           pg_catalog.set_config('client_connection_check_interval', '1s', false)
       end
