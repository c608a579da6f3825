-- Empties the inboxes of the instances $1, which this transaction has ended.
--
-- Their rows are locked since, and this statement's snapshot is younger than that lock: a signal whose
-- delivery came first is seen, and one that comes after finds that its target has ended. The commit's
-- own snapshot is older than its locks.
delete from gen_durable.signals s
where s.target_id = any ($1::bigint[])
