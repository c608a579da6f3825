-- Leaves rows to the reaper, as if their worker had been lost. The claimer runs it for lost claims
-- on which a run has begun. The reaper counts a crash for each, so no bug makes a step run for
-- ever.
--
-- Invariant: only rows that the worker holds change, and none whose cancel is to be answered.
-- `status || ''` fits no index, so each row is looked up by its id.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the ids of the rows
update gen_durable.instances i
-- No worker has the id 0, so the reaper takes the row.
set locked_by = 0,
    updated_at = gen_durable.now()
where i.id = any ($2::bigint[]) and i.locked_by = $1 and i.status || '' = 'executing'
  and coalesce(i.owes, 0) & 4 = 0
