-- Removes workers whose lease ran out and that hold no row any more. The reaper runs it when it
-- finds no row to take.
--
-- Invariant: it waits for no lock. A worker whose row is locked, perhaps to renew its lease, is
-- left for another time.
delete from gen_durable.workers w
where w.id = any (array(
    select lost.id
    from gen_durable.workers lost
    where lost.lease_expires_at < gen_durable.now()
      and not exists (select from gen_durable.instances i where i.locked_by = lost.id)
    for update skip locked
))
