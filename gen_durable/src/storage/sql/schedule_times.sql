-- Tells when schedules are due. An engine that declares schedules runs it when it expects one to be
-- due, and at each poll.
--
-- Invariant: the cost does not grow with the schedules. It reads one entry of an index at a time,
-- and the few rows of `workers`.
select (extract(epoch from gen_durable.now()) * 1000000)::bigint as now,
       -- 1. The workers that are alive. If they are others than before, other declarations may be
       --    in force.
       (
           select pg_catalog.count(*)::text || ' ' || coalesce(pg_catalog.sum(w.id), 0)::text
           from gen_durable.workers w
           where w.lease_expires_at > gen_durable.now()
       ) as fleet,
       -- 2. The next time at which some schedule is due.
       (extract(epoch from (
           select least(s.due_at, gen_durable.now() + interval '1 century')
           from gen_durable.schedules s
           where s.due_at > gen_durable.now()
           order by s.due_at
           limit 1
       )) * 1000000)::bigint as next_at,
       -- 3. True if some schedule is due now, or if the clock went back to before ticks that have
       --    not fired.
       exists (select from gen_durable.schedules s where s.due_at <= gen_durable.now())
       or exists (select from gen_durable.schedules s where s.skipped_to > gen_durable.now()) as due
