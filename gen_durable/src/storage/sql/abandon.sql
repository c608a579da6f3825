-- Leaves the rows $2 to the reaper, as if the worker $1, which holds them, had been lost. No worker has
-- the id 0.
update gen_durable.instances i
set locked_by = 0,
    updated_at = gen_durable.now()
where i.id = any ($2::bigint[]) and i.locked_by = $1 and i.status || '' = 'executing'
