-- Lists the machines that engines have registered, each version by itself, and counts the living
-- workers that run it. Looks at machines run it.
--
-- $1 bigint: the most of them
--
-- `registered_at` is in microseconds since 1970.
select m.fsm, m.fsm_version, m.queue, m.initial, m.on_cancel, m.steps, m.signals, m.graph::text as graph,
       m.history, (extract(epoch from m.registered_at) * 1000000)::bigint as registered_at,
       (
           select pg_catalog.count(*)
           from gen_durable.workers w
           where w.lease_expires_at > gen_durable.now()
             and exists (
                 select from unnest(w.fsms, w.fsm_versions) as k (fsm, fsm_version)
                 where k.fsm = m.fsm and k.fsm_version = m.fsm_version
             )
       ) as workers
from gen_durable.machines m
order by m.fsm, m.fsm_version
limit $1::bigint
