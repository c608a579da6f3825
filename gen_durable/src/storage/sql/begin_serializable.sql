-- Begins the transaction of a step that takes one at the level `serializable`. The rest is as in
-- begin_read_committed.sql.
begin isolation level serializable read write; set local gen_durable.step = 'open'
