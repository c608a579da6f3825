-- Bounds a step's transaction in Postgres by the step's timeout. The engine runs it after
-- begin_read_committed.sql and its kin, if the step has a timeout.
--
-- Invariant: a transaction whose process is stopped, or whose host is gone, ends by itself. Its
-- locks would otherwise hold others up until the network notices. A shorter limit, which the
-- application has set for its own connections, stays.
--
-- $1 bigint: the limit, in milliseconds
select pg_catalog.set_config(s.name, $1::bigint::text, true)
from pg_catalog.pg_settings s
where s.name in ('statement_timeout', 'idle_in_transaction_session_timeout')
  and (s.setting = '0' or s.setting::bigint > $1::bigint)
