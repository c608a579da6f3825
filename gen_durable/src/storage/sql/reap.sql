-- Returns up to $1 rows of lost workers to the queue: those whose lease ran out, and those that
-- are not in the table of workers at all. A row whose workers were lost $2 times in a row fails.
--
-- From the second loss in a row on, a row comes back at a random moment of the next second, of the
-- next two, and then of the next four. An instance that kills its worker at once would otherwise be
-- claimed with the same neighbours each time, and they would fail with it.
--
-- The distinct holders are found by one descent of the lease index each.
with recursive holders (locked_by) as (
    (
        select i.locked_by from gen_durable.instances i
        where i.locked_by is not null order by i.locked_by limit 1
    )
    union all
    select beyond.locked_by
    from holders h
    cross join lateral (
        select i.locked_by from gen_durable.instances i
        where i.locked_by > h.locked_by order by i.locked_by limit 1
    ) as beyond
),
lost as materialized (
    select h.locked_by
    from holders h
    where h.locked_by is not null
      and not exists (
          select from gen_durable.workers w
          where w.id = h.locked_by and w.lease_expires_at > gen_durable.now()
      )
),
orphans as materialized (
    select orphan.id
    from lost l
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.locked_by = l.locked_by
        limit $1
        for no key update skip locked
    ) as orphan
    limit $1
)
update gen_durable.instances i
set status = case when i.crashes >= $2 - 1 then 'failed' else 'runnable' end,
    last_error = case
        when i.crashes >= $2 - 1
        then pg_catalog.format('step %s: its worker was lost %s times in a row', i.step, i.crashes::bigint + 1)
        else i.last_error
    end,
    finished_at = case when i.crashes >= $2 - 1 then gen_durable.now() end,
    locked_by = null,
    eligible_at = case
        -- Not if it has a key: nothing of its key may go before it.
        when i.crashes > 0 and i.partition_key is null
        then gen_durable.now() + pg_catalog.random() * 2 ^ least(i.crashes, 3) * interval '0.5 seconds'
        else i.eligible_at
    end,
    -- The counts stay within their types: one absurd row must not fail the batch.
    attempt = least(i.attempt, 2147483646) + 1,
    crashes = least(i.crashes, 2147483646) + 1,
    revision = i.revision % 4611686018427387904 + 1,
    unique_scope = case
        when (case when i.crashes >= $2 - 1 then 'failed' else 'runnable' end)
             = any (i.unique_scope)
        then i.unique_scope
    end,
    updated_at = gen_durable.now()
where i.id = any (array(select o.id from orphans o))
returning i.id, i.queue, i.partition_key, i.status
