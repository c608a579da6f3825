-- Deletes the histories of instances. The action `delete` runs it. Retention does not: it drops the
-- history of whole days.
--
-- $1 bigint[]: the instances
delete from gen_durable.history h
where h.instance_id = any ($1::bigint[])
