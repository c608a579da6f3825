-- Bounds a step's transaction in Postgres by the step's timeout. The engine runs it after
-- begin_read_committed.sql and its kin, if the step has a timeout.
--
-- Invariant: a transaction whose process is stopped, or whose host is gone, ends by itself. Its
-- locks would otherwise hold others up until the network notices. A limit that the application has
-- set for its own connections stays, as it may be shorter.
--
-- $1 text: the limit, in milliseconds
select case when pg_catalog.current_setting('statement_timeout') = '0' then
           pg_catalog.set_config('statement_timeout', $1, true)
       end,
       case when pg_catalog.current_setting('idle_in_transaction_session_timeout') = '0' then
           pg_catalog.set_config('idle_in_transaction_session_timeout', $1, true)
       end
