-- Begins the transaction of a step that takes one at the level `repeatable read`. The rest is as in
-- begin_read_committed.sql.
begin isolation level repeatable read read write; set local gen_durable.step = 'open'
