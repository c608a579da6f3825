-- Clears all that a step has left in its session: the role, settings, cursors, channels, temporary
-- tables, sequences and advisory locks. The engine runs it after the transaction, before another
-- step may have the connection.
--
-- Invariant: what a step leaves reaches nobody. Prepared statements stay: the driver knows them,
-- and they change nothing.
reset session authorization; reset role; reset all; close all; unlisten *; discard temp; discard sequences; set default_transaction_read_only = on; select pg_catalog.pg_advisory_unlock_all()
