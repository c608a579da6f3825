-- Removes the worker $1. Rows that it still holds are found by the reaper, as it has no lease.
delete from gen_durable.workers where id = $1
