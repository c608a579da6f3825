-- Tells the listening engines, with the transaction, that something is owed (owed.sql), paused or
-- resumed, or that a limit has other bounds. Calls of operators run it.
--
-- Invariant: Postgres tells them only if the transaction commits.
--
-- $1 text: the id of an instance that was killed while it ran: the engine that runs it drops the
--          run, whose outcome has no effect in any case. `paused` if something was paused or
--          resumed, or a limit was set or reset. Empty for anything else
select pg_catalog.pg_notify('gen_durable_owed', $1::text)
