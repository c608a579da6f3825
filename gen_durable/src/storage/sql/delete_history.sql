-- Deletes the history of an instance. The action `delete` runs it. Retention does not: it drops the
-- history of whole days.
--
-- $1 bigint: the instance
delete from gen_durable.history h
where h.instance_id = $1::bigint
