-- As notify.sql, in a transaction of its own, which does not wait until it is written to disk or to a standby: it has
-- nothing to keep, and whoever listens would hear of it only after that. Never for the caller's transaction, which
-- would not wait either.
select pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify('gen_durable', q.queue)
from pg_catalog.unnest($1::text[]) as q (queue)
