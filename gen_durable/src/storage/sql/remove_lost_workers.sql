-- Removes workers whose lease ran out and that hold no row any more.
delete from gen_durable.workers w
where w.lease_expires_at < now()
  and not exists (select from gen_durable.instances i where i.locked_by = w.id)
