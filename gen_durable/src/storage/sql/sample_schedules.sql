-- Reads the state of schedules for the metrics. The observer runs it.
--
-- Invariant: it reads at most 1,000 rows.
--
-- Times are microseconds since 1970. `failing` says that the last tick inserted no instance.
select s.name,
       (extract(epoch from s.next_at) * 1000000)::bigint as next_at,
       (extract(epoch from s.last_at) * 1000000)::bigint as last_at,
       coalesce(s.failed_at >= s.last_at, s.failed_at is not null) as failing,
       coalesce(s.paused_until > gen_durable.now(), s.paused_at is not null) as paused
from gen_durable.schedules s
order by s.name
limit 1000
