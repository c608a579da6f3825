-- Clears what a step has left in its session (reset_step.sql), and begins the transaction of the
-- next one at the level `read committed` (begin_read_committed.sql), in one round trip.
--
-- Invariant: the session is clear when the step runs. Postgres runs these commands in one
-- transaction. If the step rolls back, the session is as it was before, and is cleared again.
reset session authorization; reset role; reset all; close all; unlisten *; discard temp; discard sequences; select pg_catalog.pg_advisory_unlock_all(); begin isolation level read committed; set local gen_durable.step = 'open'
