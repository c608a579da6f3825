-- Claims runnable rows for a worker, as claim.sql does, in a simple case. All waiting rows of each
-- queue are of one known group, which is one with a watermark. They have no partition key, and
-- together their states weigh less than $13 bytes. The statement has about half the parts of
-- claim.sql, and takes two thirds of the time. In any other case it claims nothing, and the worker
-- runs claim.sql. That file explains the words group, watermark and claim lock.
--
-- Invariant: the rows that it claims are those that claim.sql would claim in its place.
--
-- $1 bigint:      the worker
-- $2 text[]:      the queue; $2 to $8 are a list of the known groups, one for each queue
-- $3 bigint[]:    the most rows to claim in that queue
-- $4 text[]:      the group's machine, which declares no signals
-- $5 int[]:       its version
-- $6 bigint[]:    its `kind`, the number by which the answer names machine, version and queue
-- $7 smallint[]:  its priority
-- $8 bigint[]:    its watermark, in microseconds since 1970
-- $9 text[]:      the queue; $9 to $12 are a list of each queue with each machine and version that
--                 the worker runs
-- $10 text[]:     the machine
-- $11 int[]:      its version
-- $12 smallint[]: the priority of its known group, or null if it has none
-- $13 bigint:     the bytes that the states may weigh
--
-- The forms that keep the plan's estimate low are explained in claim.sql.
with claim_locks as materialized (
    -- 1. The claim lock of each queue, as in claim.sql.
    select q.queue, pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(q.queue, 5298)) as taken
    from unnest((select $2::text[])) as q (queue)
),
others as materialized (
    -- 2. True if a row waits outside the known groups: one of another priority, machine or version.
    --    Two descents of the index for each machine tell, one on either side of the known group,
    --    whose dead tuples they do not read. Rows that are due later count too.
    select pg_catalog.count(*) > 0 as any
    from unnest(
        (select $9::text[]), (select $10::text[]), (select $11::int[]), (select $12::smallint[])
    ) as k (queue, fsm, fsm_version, priority)
    where (
        select true
        from gen_durable.instances i
        where i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
          and i.priority < coalesce(k.priority, 32768)
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) is not null
    or (
        select true
        from gen_durable.instances i
        where i.queue = k.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
          and i.priority > k.priority
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) is not null
),
due as materialized (
    -- 3. The first due rows of each group, as if no row were locked: how many there are, up to what
    --    is asked for, and when the first one was due. They begin a quarter of a second before the
    --    watermark, as in claim.sql.
    select g.kind, g.queue, g.fsm, g.fsm_version, g.priority, head.rows, head.since
    from unnest(
        (select $2::text[]), (select $3::bigint[]), (select $4::text[]), (select $5::int[]),
        (select $6::bigint[]), (select $7::smallint[]), (select $8::bigint[])
    ) as g (queue, wanted, fsm, fsm_version, kind, priority, watermark)
    cross join lateral (
        select pg_catalog.count(*) as rows, pg_catalog.min(first.eligible_at) as since
        from (
            select ahead.eligible_at
            from (
                select i.eligible_at
                from gen_durable.instances i
                where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
                  and i.priority = g.priority
                  and i.status = 'runnable' and i.blocked_by = 0
                  and i.eligible_at >= timestamptz 'epoch' + g.watermark * interval '1 microsecond' - interval '250 milliseconds'
                  and i.eligible_at <= gen_durable.now()
                order by i.eligible_at, i.id
                limit 1000
            ) as ahead
            limit g.wanted
        ) as first
    ) as head
    where g.queue = any (array(select t.queue from claim_locks t where t.taken))
),
found as materialized (
    -- 4. The rows, locked. Rows that another transaction has locked are skipped, and the next ones
    --    come in their place. The weight of a state is that of claim.sql.
    select d.kind, row.id, row.partition_key, row.eligible_at, row.weight
    from due d
    cross join lateral (
        select ahead.*
        from (
            select i.id, i.partition_key, i.eligible_at,
                   pg_catalog.pg_column_size(i.state)::bigint * case
                       when pg_catalog.pg_column_compression(i.state) is null then 1 else 8
                   end as weight
            from gen_durable.instances i
            where i.queue = d.queue and i.fsm = d.fsm and i.fsm_version = d.fsm_version
              and i.priority = d.priority
              and i.status = 'runnable' and i.blocked_by = 0
              and i.eligible_at >= d.since and i.eligible_at <= gen_durable.now()
            order by i.eligible_at, i.id
            limit 1000
            for no key update skip locked
        ) as ahead
        limit d.rows
    ) as row
    -- A worker whose lease has run out claims nothing. If there are other rows, claim.sql has to
    -- decide, and nothing is locked here.
    where exists (
        select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > gen_durable.now()
    )
    and not (select o.any from others o)
),
unsure as materialized (
    -- 5. True if claim.sql has to decide.
    select o.any or exists (select from found f where f.partition_key is not null)
           or coalesce((select pg_catalog.sum(f.weight) from found f), 0) >= $13 as any
    from others o
),
claimed as (
    -- 6. The claim, as in claim.sql.
    update gen_durable.instances i
    set status = 'executing',
        locked_by = $1,
        revision = i.revision % 4611686018427387904 + 1,
        trace_context = case
            when i.eligible_at > i.updated_at then '-' || pg_catalog.ltrim(i.trace_context, '-')
            else i.trace_context
        end,
        unique_released = i.unique_released or 'executing' <> all (i.unique_scope),
        updated_at = gen_durable.now()
    where i.id = any (array(select f.id from found f where not (select u.any from unsure u)))
    returning i.id, i.step, i.state, i.attempt, i.failures, i.revision, i.awaits, i.report_to,
        i.trace_context
)
-- 7. One row of arrays with the columns of claim.sql, and `unsure`. All found rows are claimed, or
--    none. Those of one queue come in the order in which they should run.
select pg_catalog.array_agg(row.id) as ids,
       pg_catalog.array_agg(row.kind) as kinds,
       pg_catalog.array_agg(null::text) as partition_keys,
       pg_catalog.array_agg(row.step) as steps,
       pg_catalog.array_agg(row.state::text) as states,
       pg_catalog.array_agg(row.attempt) as attempts,
       pg_catalog.array_agg(row.revision) as revisions,
       pg_catalog.array_agg(row.awaits = '{}') as timed_out,
       pg_catalog.array_agg(null::text) as inboxes,
       array(select t.queue from claim_locks t where not t.taken) as refused,
       array(select d.kind from due d where d.rows > 0) as first_kinds,
       array(select d.priority from due d where d.rows > 0) as first_priorities,
       array(select (extract(epoch from d.since) * 1000000)::bigint from due d where d.rows > 0) as first_since,
       (select pg_catalog.count(*) from found) < (select pg_catalog.sum(d.rows) from due d) as left_out,
       pg_catalog.array_agg(row.failures) as failures,
       pg_catalog.array_agg(row.report_to) as receivers,
       pg_catalog.array_agg(row.trace_context) as trace_contexts,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as claimed_at,
       pg_catalog.array_agg(
           gen_durable.now() - greatest(row.eligible_at, gen_durable.now() - interval '1 year')
       ) as waited,
       false as cut,
       (select u.any from unsure u) as unsure
from (
    select f.kind, c.id, c.step, c.state, c.attempt, c.failures, c.revision, c.awaits, c.report_to,
           c.trace_context, f.eligible_at
    from found f
    join claimed c on c.id = f.id
    order by f.kind, f.eligible_at, f.id
) as row
