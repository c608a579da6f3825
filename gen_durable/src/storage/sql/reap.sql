-- Takes rows from lost workers: returns them to the queue, or fails those that have lost too many
-- workers in a row. The reaper runs it in each engine.
--
-- A row whose cancel is still to be answered leaves the queue to that (`blocked_by`). Its run was
-- to be dropped in any case, so it counts no loss.
--
-- Invariant: only rows change whose holder has no running lease, or is not in the table `workers`
-- at all. Rows that are locked are skipped. A row that fails owes its report: its receiver is not
-- locked yet (owed.sql).
--
-- $1 bigint: the most rows to take
-- $2 int:    the losses in a row after which a row fails
with recursive holders (locked_by) as (
    -- 1. The workers that hold rows: one descent of the lease index for each.
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
    -- 2. The workers among them that are lost: their lease ran out, or they do not exist.
    select h.locked_by
    from holders h
    where h.locked_by is not null
      and not exists (
          select from gen_durable.workers w
          where w.id = h.locked_by and w.lease_expires_at > gen_durable.now()
      )
),
orphans as materialized (
    -- 3. Their rows, locked, as many as the batch takes, and the status of each from here on.
    select orphan.id, orphan.asked, orphan.locked_by, orphan.updated_at, case
        when orphan.asked or orphan.crashes < $2 - 1 then 'runnable'
        when orphan.cancelled_at is null then 'failed'
        else 'cancelled'
    end as status
    from lost l
    cross join lateral (
        select i.id, i.crashes, i.cancelled_at, i.locked_by, i.updated_at,
               coalesce(i.owes, 0) & 4 = 4 as asked
        from gen_durable.instances i
        where i.locked_by = l.locked_by
        limit $1
        for no key update skip locked
    ) as orphan
    limit $1
)
update gen_durable.instances i
set status = o.status,
    last_error = case
        when o.status <> 'runnable'
        then pg_catalog.format('step %s: its worker was lost %s times in a row', i.step, i.crashes::bigint + 1)
        else i.last_error
    end,
    finished_at = case when o.status <> 'runnable' then gen_durable.now() end,
    owes = case
        when o.status <> 'runnable' and i.report_to is not null then coalesce(i.owes, 0) | 1
        else i.owes
    end,
    blocked_by = case when o.asked then i.blocked_by | 2 else i.blocked_by end,
    locked_by = null,
    -- From the second loss in a row on, a row comes back at a random moment: of the next second,
    -- then of the next two, and then of the next four. Otherwise an instance that kills its worker
    -- at once would be claimed with the same neighbours each time, and they would fail with it. A
    -- row with a partition key is not delayed: no later row of its key may go before it.
    eligible_at = case
        when i.crashes > 0 and i.partition_key is null
        then gen_durable.now() + pg_catalog.random() * 2 ^ least(i.crashes, 3) * interval '0.5 seconds'
        else i.eligible_at
    end,
    -- The counts stay within their types: one row with an absurd count must not fail the batch.
    attempt = least(i.attempt, 2147483646) + 1,
    crashes = least(i.crashes, 2147483646) + 1,
    revision = i.revision % 4611686018427387904 + 1,
    unique_released = i.unique_released or o.status <> all (i.unique_scope),
    updated_at = gen_durable.now()
from orphans o
where i.id = any (array(select o.id from orphans o)) and i.id + 0 = o.id
returning i.id, i.queue, i.partition_key, i.status, coalesce(i.owes, 0) & 1 = 1 as owes,
          -- For the history: the worker whose run was lost, and the time at which it got the row.
          -- An absurd time must not fail the batch, as no number stands for it.
          case when not o.asked then o.locked_by end as lost_by,
          (extract(
              epoch from greatest(least(o.updated_at, gen_durable.now()), timestamptz 'epoch')
          ) * 1000000)::bigint as since
