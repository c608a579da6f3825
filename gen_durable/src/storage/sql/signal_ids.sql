-- Tells which signals are in the inbox of an instance. Above `read committed` the engine asks it
-- twice for an instance that ends, or that parks until several signals have come: in the step's
-- transaction and on another connection.
--
-- Invariant: if the second answer has others, the step's snapshot is older than these. An instance
-- that ends could not empty its inbox, and the step runs again.
--
-- $1 bigint: the instance
-- $2 text:   the name of the signals; null for all
select coalesce(pg_catalog.array_agg(s.id), '{}')
from gen_durable.signals s
where s.target_id = $1::bigint
  and ($2::text is null or s.name = $2::text)
