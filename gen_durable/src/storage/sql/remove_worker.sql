-- Removes a worker. An engine runs it at its end. The reaper takes the rows that it still holds,
-- because a worker that does not exist has no lease.
--
-- $1 bigint: the worker
delete from gen_durable.workers where id = $1
