-- Announces queues to the listening engines, in a transaction of its own. Notifiers and calls on a
-- pool run it.
--
-- Invariant: it never runs in a caller's transaction, whose commit would then not wait for the disk
-- either: notify.sql is for those.
--
-- $1 text[]: the queues that have work
--
-- The transaction does not wait until it is written to disk or to a standby. It has nothing to
-- keep, and the listeners would hear of it only after that wait.
select pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify('gen_durable', q.queue)
from pg_catalog.unnest($1::text[]) as q (queue)
