-- Counts workers whose lease runs, and those whose lease has run out, for the metrics. The observer
-- runs it.
--
-- Invariant: it reads at most 10,000 rows.
--
-- `now` is the database's time, in microseconds since 1970.
select pg_catalog.count(*) filter (where w.lease_expires_at > gen_durable.now()) as alive,
       pg_catalog.count(*) filter (where w.lease_expires_at <= gen_durable.now()) as stale,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as now
from (select a.lease_expires_at from gen_durable.workers a limit 10000) as w
