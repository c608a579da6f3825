-- Clears what a step has left in its session (reset_step.sql), and begins the transaction of the
-- next one at the level `read committed` (begin_read_committed.sql), in one round trip.
--
-- Invariant: the session is clear when the step runs. BEGIN comes first: a transaction keeps the
-- level and the access mode that it begins with, and those that the last step left as defaults are
-- not to be these. If the step rolls back, the session is as it was before, and is cleared again.
begin isolation level read committed read write; reset session authorization; reset role; reset all; close all; unlisten *; discard temp; discard sequences; set default_transaction_read_only = on; select pg_catalog.pg_advisory_unlock_all(); set local gen_durable.step = 'open'
