-- Claims instances for the worker of the process that has just woken them by a signal, in the
-- transaction that woke them. It does for them what claim.sql does, in the same commit. The
-- transaction has the lock of each row, so no signal comes between the wake and the claim.
--
-- Invariant: a row is claimed only if the worker's lease runs, and no row of the same queue but
-- those of $2 waits that the worker could claim.
--
-- The look for waiting rows begins at the beginning of each group, and so steps over dead tuples.
-- The worker measures it, and sends no such statements for a while after a slow one.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the woken instances to claim
-- $3 text[]:   the queue; $3 to $5 are a list of each of their queues with each machine and version
--              that the worker runs
-- $4 text[]:   the machine
-- $5 int[]:    its version
with recursive groups (queue, fsm, fsm_version, priority) as (
    -- 1. The groups that have rows in the claim's index, as in insert_claimed.sql.
    select k.queue, k.fsm, k.fsm_version, -32769
    from unnest((select $3::text[]), (select $4::text[]), (select $5::int[]))
        as k (queue, fsm, fsm_version)
    union all
    select g.queue, g.fsm, g.fsm_version, head.priority
    from groups g
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority > g.priority
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
),
waiting as materialized (
    -- 2. The queues in which another due row waits.
    select g.queue
    from unnest(
        array(select queue from groups), array(select fsm from groups),
        array(select fsm_version from groups), array(select priority from groups)
    ) as g (queue, fsm, fsm_version, priority)
    where (
        select true
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority = g.priority
          and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
          and i.id <> all ($2::bigint[])
        order by i.eligible_at, i.id
        limit 1
    ) is not null
)
-- 3. The claim, as in claim.sql. It leaves four kinds of rows to claim.sql: those with a partition
--    key, because claim.sql orders the rows of a key; those that are blocked; those with a large
--    state; and those of machines that the worker does not run. `status || ''` fits no index, so
--    the rows are looked up by id alone. `inbox` is that of claim.sql. It is
--    never empty, as a signal woke the row.
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
where i.id = any ($2::bigint[])
  and i.status || '' = 'runnable' and i.blocked_by = 0 and i.partition_key is null
  and (i.queue, i.fsm, i.fsm_version) in (
      select * from unnest($3::text[], $4::text[], $5::int[])
  )
  and i.queue <> all (array(select w.queue from waiting w))
  and pg_catalog.pg_column_size(i.state) < 16384
  and exists (
      select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > gen_durable.now()
  )
returning i.id, i.fsm, i.fsm_version, i.step, i.state::text as state, i.queue, i.attempt, i.failures,
    i.revision, i.report_to, i.trace_context, (extract(epoch from gen_durable.now()) * 1000000)::bigint as claimed_at,
    (
        select pg_catalog.json_build_array(
                   pg_catalog.json_agg(
                       pg_catalog.json_build_array(s.id, s.name, s.payload, s.trace_context) order by s.id
                   ) filter (where s.fits),
                   not pg_catalog.bool_and(s.fits)
               )::text
        from (
            select s.id, s.name, s.payload, s.trace_context,
                   pg_catalog.row_number() over oldest <= 100
                   and pg_catalog.sum(s.weight) over oldest - s.weight < 65536 as fits
            from (
                select s.id, s.name, s.payload, s.trace_context,
                       pg_catalog.pg_column_size(s.payload)::bigint * case
                           when pg_catalog.pg_column_compression(s.payload) is null then 1 else 8
                       end as weight
                from gen_durable.signals s
                where s.target_id = i.id
                order by s.id
                limit 101
            ) as s
            window oldest as (order by s.id)
        ) as s
        having pg_catalog.count(*) > 0
    ) as inbox
