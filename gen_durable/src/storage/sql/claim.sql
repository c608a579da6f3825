-- Claims runnable rows for a worker, and loads their states and inboxes. The claimer of each engine
-- runs it, up to a thousand times a second.
--
-- Invariant: a claimed row was due, not blocked and not locked, and its worker's lease was running.
-- A row with a partition key is claimed only if it is the head of a key that no executing row
-- holds. Other rows with a key are returned as candidates, for claim_partitions.sql.
--
-- $1 bigint:      the worker
-- $2 text[]:      the queue; $2 to $5 are a list of each queue with each machine and version
-- $3 bigint[]:    the most rows to claim in that queue
-- $4 text[]:      the machine
-- $5 int[]:       its version
-- $6 text[]:      the machines that declare signals: their inboxes are loaded
-- $7 text[]:      the queues to claim even if another claim has their claim lock
-- $8 boolean:     true if heads of partition keys are claimed; otherwise they stay candidates
-- $9 bigint[]:    a place in $2 to $5, from one; $9 to $11 are the list of watermarks
-- $10 smallint[]: the priority, which names a group together with $9
-- $11 bigint[]:   the time of the group's first waiting row, in microseconds since 1970
-- $12 bigint:     the bytes that states may weigh: those of rows without a partition key, and those
--                 of heads
-- $13 boolean:    true for a light claim, without large states and signals, because claims with
--                 them failed
--
-- The estimated cost must stay far below `jit_above_cost`, however large the table is, or Postgres
-- compiles the statement each time. It must not depend on the parameters, or Postgres plans the
-- statement each time. Three forms look idle and serve this. `(select $n)` hides the length of an
-- array. `unnest(array(select ...))` counts as ten rows, where a recursive query counts as
-- thousands. The limit of 1000, the most rows that a claim asks for, bounds the estimate of a limit
-- that the planner cannot see.
with recursive claim_locks as materialized (
    -- 1. The claim lock of each queue: one claim of a queue runs at a time. Claims that overlap
    --    scan the same rows. One locks rows that the other has just taken, keeps them locked until
    --    it ends, and so holds up their commits. A claim waits for no claim lock: it leaves the
    --    queue out.
    select q.queue, pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(q.queue, 5298)) as taken
    from (select distinct k.queue from pg_catalog.unnest((select $2::text[])) as k (queue)) as q
),
known as materialized (
    -- 2. The watermarks. The index keeps dead entries of claimed rows until a vacuum, and they lie
    --    before the waiting rows. At ten thousand rows a second, each claim from the beginning
    --    would soon step over half a million of them. Therefore a claim begins at the watermark of
    --    each group that it knows. A row may come to lie before the watermark, if it is given back
    --    or scheduled for the past. Claims that are given no watermarks find it.
    select n.kind, n.priority, n.since
    from unnest((select $9::bigint[]), (select $10::smallint[]), (select $11::bigint[]))
        as n (kind, priority, since)
),
groups (kind, queue, wanted, fsm, fsm_version, priority) as (
    -- 3. The groups that exist: queue, machine, version and priority. Each is found by one descent
    --    of the index, or has a watermark. A scan of a queue in the order of priority and time
    --    would step over each row of an unknown machine. It would also step over each row that is
    --    scheduled for later at a more urgent priority. Therefore only the heads of the groups are
    --    read.
    --
    -- Each entry of the list begins below the lowest priority, before its first group.
    select k.kind, k.queue, k.wanted, k.fsm, k.fsm_version, -32769
    from unnest(
        (select $2::text[]), (select $3::bigint[]), (select $4::text[]), (select $5::int[])
    ) with ordinality as k (queue, wanted, fsm, fsm_version, kind)
    -- A queue in $7 is claimed without its claim lock, because the holder may be stuck. Rows that
    -- the holder has locked are skipped.
    where k.queue = any (array(
        select t.queue from claim_locks t where t.taken or t.queue = any ((select $7::text[])::text[])
    ))
    union all
    select g.kind, g.queue, g.wanted, g.fsm, g.fsm_version, next.priority
    from groups g
    cross join lateral (
        select pg_catalog.min(n.priority)::int as priority
        from known n
        where n.kind = g.kind and n.priority > g.priority
    ) as known
    cross join lateral (
        select coalesce(
            (
                select i.priority
                from gen_durable.instances i
                where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
                  and i.priority > g.priority and i.priority < coalesce(known.priority, 32768)
                  and i.status = 'runnable' and not i.blocked
                order by i.queue, i.fsm, i.fsm_version, i.priority
                limit 1
            ),
            known.priority
        ) as priority
    ) as next
    where next.priority is not null
),
ready as (
    -- 4. The due rows at the head of each group. `place` numbers those of a queue, the most urgent
    --    first.
    select g.*, s.since, head.eligible_at, pg_catalog.row_number() over (
        partition by g.queue order by g.priority, head.eligible_at, head.id
    ) as place
    from unnest(
        array(select kind from groups), array(select queue from groups),
        array(select wanted from groups), array(select fsm from groups),
        array(select fsm_version from groups), array(select priority from groups)
    ) as g (kind, queue, wanted, fsm, fsm_version, priority)
    cross join lateral (
        select coalesce(
            -- A transaction that began before the watermark's row was written may end later, with
            -- rows that lie before the watermark. The claim allows a quarter of a second for it.
            timestamptz 'epoch' + pg_catalog.min(n.since) * interval '1 microsecond' - interval '250 milliseconds',
            '-infinity'
        ) as since
        from known n
        where n.kind = g.kind and n.priority = g.priority
    ) as s
    cross join lateral (
        select ahead.eligible_at, ahead.id
        from (
            select i.eligible_at, i.id
            from gen_durable.instances i
            where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
              and i.priority = g.priority
              and i.status = 'runnable' and not i.blocked
              and i.eligible_at >= s.since and i.eligible_at <= gen_durable.now()
            order by i.eligible_at, i.id
            limit 1000
        ) as ahead
        limit g.wanted
    ) as head
),
shares as materialized (
    -- 5. The number of rows to claim of each group: no queue gets more than it asks for.
    select kind, queue, fsm, fsm_version, priority, since, pg_catalog.count(*) as wanted
    from ready
    where place <= wanted
    group by kind, queue, fsm, fsm_version, priority, since
),
found as materialized (
    -- 6. The rows of each share, locked. Rows that another claim has locked are skipped and the
    --    next ones taken, so that workers do not wait for each other. The outer limit stops the
    --    inner query, so no more rows are locked than that.
    --
    --    A compressed state weighs eight times what it takes on disk, as its length is known only
    --    after unpacking.
    select row.id, s.kind, row.partition_key, row.weight, pg_catalog.row_number() over (
        order by row.priority, row.eligible_at, row.id
    ) as place
    from unnest(
        array(select kind from shares), array(select queue from shares),
        array(select fsm from shares), array(select fsm_version from shares),
        array(select priority from shares), array(select since from shares),
        array(select wanted from shares)
    ) as s (kind, queue, fsm, fsm_version, priority, since, wanted)
    cross join lateral (
        select ahead.*
        from (
            select i.id, i.partition_key, i.priority, i.eligible_at,
                   pg_catalog.pg_column_size(i.state)::bigint * case
                       when pg_catalog.pg_column_compression(i.state) is null then 1 else 8
                   end as weight
            from gen_durable.instances i
            where i.queue = s.queue and i.fsm = s.fsm and i.fsm_version = s.fsm_version
              and i.priority = s.priority
              and i.status = 'runnable' and not i.blocked
              and i.eligible_at >= s.since and i.eligible_at <= gen_durable.now()
            order by i.eligible_at, i.id
            limit 1000
            for no key update skip locked
        ) as ahead
        limit s.wanted
    ) as row
    where exists (
        select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > gen_durable.now()
    )
),
candidates as materialized (
    -- 7. The most urgent rows, until the states of those without a partition key weigh $12 bytes.
    --    Postgres can send no array beyond 1 GiB, and the rows of one claim must not keep others
    --    waiting. Rows that are left stay runnable, and `cut` is true then.
    select f.*
    from (
        select f.*, pg_catalog.sum(f.weight) filter (where f.partition_key is null) over (
            order by f.place rows between unbounded preceding and 1 preceding
        ) as before
        from found f
    ) as f
    where coalesce(f.before, 0) < $12
),
heads as materialized (
    -- 8. The candidates with a partition key that plainly may run: no row holds the key, no
    --    transaction has its lock, and the row is the key's head, the most urgent row that the
    --    worker can run. Other candidates with a key are not loaded, so these are weighed apart.
    select k.id
    from (
        select first.id, first.partition_key,
               pg_catalog.sum(first.weight) over (order by first.place) - first.weight as before
        from (
            select distinct on (c.partition_key) c.id, c.partition_key, c.weight, c.place
            from candidates c
            where c.partition_key is not null and $8
            order by c.partition_key, c.place
        ) as first
        -- A subquery with a limit stands for "not exists", which could be planned as a join with
        -- all executing rows.
        where (
            select h.id
            from gen_durable.instances h
            where h.partition_key = first.partition_key and h.status = 'executing'
            limit 1
        ) is null
        and first.id = (
            select i.id
            from gen_durable.instances i
            where i.partition_key = first.partition_key and i.status = 'runnable'
              and i.eligible_at <= gen_durable.now()
              and (i.queue, i.fsm, i.fsm_version) in (
                  select * from unnest($2::text[], $4::text[], $5::int[])
              )
            order by i.priority, i.eligible_at, i.id
            limit 1
        )
        -- A thousand locks would fill a small server's table of locks. And without the limit,
        -- Postgres would try the lock before the subqueries above, as the lock is cheaper.
        order by first.place
        limit 250
    ) as k
    -- The key's lock comes last. A commit that frees a key waits for it, and must not wait for a
    -- claim that has no use for the key.
    --
    -- The snapshot is older than the lock. In between, a row of the key may be inserted and
    -- claimed, and its claim committed: the snapshot misses that holder. The index
    -- `instances_partition_holder` then refuses the whole claim, and the worker repeats it with $8
    -- false. If the holder's own commit is under way, it waits for this lock while the claim waits
    -- for it in the index. The claim gives up after a tenth of a second, before Postgres looks for
    -- a deadlock.
    where k.before < $12
      and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(k.partition_key, 5297))
      and pg_catalog.set_config('lock_timeout', '100ms', true) is not null
),
claimed as (
    -- 9. The rows without a partition key, and the heads.
    update gen_durable.instances i
    set status = 'executing',
        locked_by = $1,
        -- The revision begins anew at 2^62: one row with an absurd revision must not fail the whole
        -- claim.
        revision = i.revision % 4611686018427387904 + 1,
        unique_scope = case when 'executing' = any (i.unique_scope) then i.unique_scope end,
        updated_at = gen_durable.now()
    where i.id = any (array(
        select c.id from candidates c where c.partition_key is null
        union all
        select h.id from heads h
    ))
    returning i.*
),
loaded as materialized (
    -- 10. The contents of the claimed rows. A state beyond 256 MiB is not loaded. A light claim
    --     loads only states that take less than 16 KiB on disk, and of an inbox only that it has
    --     signals.
    select i.id, i.step, i.attempt, i.failures, i.revision, i.awaits,
           case
               when pg_catalog.pg_column_size(i.state) < 16384 then i.state
               when not $13::boolean and (
                   pg_catalog.pg_column_size(i.state) < 1048576
                   or pg_catalog.octet_length(i.state::text) <= 268435456
               ) then i.state
           end as state,
           -- The oldest signals: at most 100, and those that begin within 64 KiB. One signal more
           -- is read, to tell if there are others.
           case when i.fsm <> all ($6::text[]) then null when $13 then (
               select '[[],true]' from gen_durable.signals s where s.target_id = i.id limit 1
           ) else (
               select pg_catalog.json_build_array(
                          pg_catalog.json_agg(
                              pg_catalog.json_build_array(s.id, s.name, s.payload) order by s.id
                          ) filter (where s.fits),
                          not pg_catalog.bool_and(s.fits)
                      )::text
               from (
                   select s.id, s.name, s.payload,
                          pg_catalog.row_number() over oldest <= 100
                          and pg_catalog.sum(s.weight) over oldest - s.weight < 65536 as fits
                   from (
                       select s.id, s.name, s.payload,
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
           ) end as inbox
    from claimed i
),
first as materialized (
    -- 11. The new watermarks: the time of the first waiting row of each group. The time is null for
    --     a machine of which rows with a partition key wait: the next row that a key lets in may be
    --     old.
    select r.kind, r.priority, case
        when r.kind <> all (array(select f.kind from found f where f.partition_key is not null))
        then (extract(epoch from pg_catalog.min(r.eligible_at)) * 1000000)::bigint
    end as since
    from ready r
    -- An infinite time has no number: rows older than a century leave no watermark.
    where r.eligible_at > gen_durable.now() - interval '1 century'
    group by r.kind, r.priority
)
-- 12. One row of arrays, in the order in which the rows should run: a message for each row would
--     cost both sides more than the claim.
--     kinds:    the places of the rows in the lists $2 to $5, from one
--     steps:    null for a candidate, which has a partition key and was not claimed
--     states:   null for a candidate, and for a state that is not loaded
--     inboxes:  the loaded signals, and true if there are others, as JSON; null for an empty inbox
--     refused:  the queues whose claim lock another claim has
--     left_out: true if rows were left out because other transactions have locked them, and no
--               others were found in their place: no announcement tells when they are free; null if
--               there was nothing to claim
--     cut:      true if rows were left because of the weight of others
select pg_catalog.array_agg(row.id) as ids,
       pg_catalog.array_agg(row.kind) as kinds,
       pg_catalog.array_agg(row.partition_key) as partition_keys,
       pg_catalog.array_agg(row.step) as steps,
       pg_catalog.array_agg(row.state::text) as states,
       pg_catalog.array_agg(row.attempt) as attempts,
       pg_catalog.array_agg(row.revision) as revisions,
       pg_catalog.array_agg(row.awaits = '{}') as timed_out,
       pg_catalog.array_agg(row.inbox) as inboxes,
       array(select t.queue from claim_locks t where not t.taken) as refused,
       array(select f.kind from first f) as first_kinds,
       array(select f.priority::smallint from first f) as first_priorities,
       array(select f.since from first f) as first_since,
       (select pg_catalog.count(*) from found) < (select pg_catalog.sum(s.wanted) from shares s) as left_out,
       pg_catalog.array_agg(row.failures) as failures,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as claimed_at,
       (select pg_catalog.count(*) from candidates) < (select pg_catalog.count(*) from found) as cut
from (
    select c.id, c.kind, c.partition_key,
           l.step, l.state, l.attempt, l.failures, l.revision, l.awaits, l.inbox
    from candidates c
    left join loaded l on l.id = c.id
    order by c.place
) as row
