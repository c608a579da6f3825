-- Lists workers, the oldest first, and counts the rows that each has claimed. Looks at workers run
-- it.
--
-- $1 bigint: the most workers
-- $2 bigint: the most rows of each that it counts, at most 10,000
--
-- Times are microseconds since 1970. `between` and the order keep the planner from an estimate by
-- the statistics of `locked_by`, as in lost_claims.sql.
select w.id, w.name, w.host, w.pid, w.library, w.queues, w.slots, w.fsms, w.fsm_versions,
       (extract(epoch from w.started_at) * 1000000)::bigint as started_at,
       (extract(epoch from w.lease_expires_at) * 1000000)::bigint as lease_expires_at,
       w.lease_expires_at > gen_durable.now() as alive,
       (
           select pg_catalog.count(*)
           from (
               select
               from (
                   select i.locked_by
                   from gen_durable.instances i
                   where i.locked_by between w.id and w.id
                   order by i.locked_by
                   limit 10000
               ) as n
               limit $2::bigint
           ) as c
       ) as claimed
from (
    select l.* from gen_durable.workers l order by l.id limit $1::bigint
) as w
order by w.id
