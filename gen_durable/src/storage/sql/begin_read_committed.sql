-- Begins the transaction of a step that takes one at the level `read committed`.
--
-- Invariant: the setting `gen_durable.step` lasts as long as this transaction. commit_step.sql
-- learns from it that the step has not ended the transaction by itself.
--
-- The session's default is read-only (step_session.sql), so that nothing is written outside of this
-- transaction.
--
-- The engine's own limits (begin.sql) do not apply: the statements are the step's.
begin isolation level read committed read write; set local gen_durable.step = 'open'
