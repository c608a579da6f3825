-- Locks a schedule that an engine is about to fire. Nothing is returned if another engine has it,
-- if it has changed since the engine looked, or if another declaration is in force.
--
-- Invariant: it waits for no lock. The first engine that commits a tick raises the revision. The
-- others then find another one.
--
-- $1 text:   the name
-- $2 bigint: the revision that the engine has seen
-- $3 text:   the engine's declaration
select s.revision
from gen_durable.schedules s
where s.name = $1::text and s.revision = $2::bigint
  -- Among the declarations of living workers, the text that appeared last is in force.
  and (
      select d.body
      from gen_durable.declarations d
      join gen_durable.workers w on w.id = d.worker
      where d.kind = 'schedule' and d.name = $1::text and w.lease_expires_at > gen_durable.now()
      order by d.appeared_at desc
      limit 1
  ) = $3::text
for update of s skip locked
