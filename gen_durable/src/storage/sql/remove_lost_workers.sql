-- Removes workers whose lease ran out and that hold no row any more. One whose row somebody has
-- locked, to renew its lease perhaps, is left for another time.
delete from gen_durable.workers w
where w.id = any (array(
    select lost.id
    from gen_durable.workers lost
    where lost.lease_expires_at < gen_durable.now()
      and not exists (select from gen_durable.instances i where i.locked_by = lost.id)
    for update skip locked
))
