-- Announces queues to the listening engines with the caller's transaction. Inserts and signals in
-- such a transaction run it.
--
-- Invariant: Postgres sends the announcement only if that transaction commits.
--
-- $1 text[]: the queues that have work
select pg_catalog.pg_notify('gen_durable', q.queue) from pg_catalog.unnest($1::text[]) as q (queue)
