-- Removes workers whose lease ran out and that hold no row any more. The reaper runs it when it
-- finds no row to take.
--
-- Their runs count in limits for half of their lease from then on (`lost_workers`). If the
-- clock has jumped ahead, a worker that lives finds itself removed before that, and drops its
-- limited runs.
--
-- Invariant: it waits for no lock. A worker whose row is locked, perhaps to renew its lease, is
-- left for another time.
with removed as (
    delete from gen_durable.workers w
    where w.id = any (array(
        select lost.id
        from gen_durable.workers lost
        where lost.lease_expires_at < gen_durable.now()
          and not exists (select from gen_durable.instances i where i.locked_by = lost.id)
        for update skip locked
    ))
    returning w.id, w.lease_ttl
),
forgotten as (
    delete from gen_durable.lost_workers l
    where l.worker = any (array(
        select over.worker
        from gen_durable.lost_workers over
        where over.counts_until < gen_durable.now() or over.lost_at > gen_durable.now()
        for update skip locked
    ))
)
insert into gen_durable.lost_workers (worker, counts_until)
select r.id, gen_durable.now() + r.lease_ttl / 2 * interval '1 microsecond'
from removed r
on conflict (worker) do nothing
