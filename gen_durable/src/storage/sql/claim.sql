-- Claims runnable rows for a worker, and loads their states and inboxes. A worker is a running
-- engine, and has a row in `workers`. Its claimer runs this statement up to a thousand times a
-- second, as a transaction of its own: all locks end with it.
--
-- Entry:     an element of the list in $2 to $5: a queue, a machine and a version. `kind` is its
--            number in the list, from one.
-- Group:     the rows of one entry that have one priority.
-- Urgent:    the more urgent of two rows has the lower priority number, then the earlier time, then
--            the lower id.
-- Holder:    the executing row of a partition key. A key with a holder is held, any other is free.
-- Blocked:   a row whose column `blocked_by` is not 0. It is not in the claim's index,
--            `instances_claim`, which has all other runnable rows. Each bit is a reason. The bit 1
--            says that another row of the partition key is to run first.
-- Head:      the row of a key that goes next: the most urgent of its due runnable rows that some
--            entry asks for. It may be blocked.
-- Candidate: a row that this claim has found in the index and locked, before it had found states of
--            $12 bytes. The claim takes the candidates without a key, and the plain heads. It
--            returns the others unclaimed, for claim_partitions.sql.
-- Plain head: a candidate that is the head of a free key whose lock this claim has got.
--
-- Invariant: a claimed row was due, not blocked and not locked, and its worker's lease was running.
-- If it has a partition key, it was the head of a free key.
--
-- $1 bigint:      the worker
-- $2 text[]:      the queue; $2 to $5 are a list of each queue with each machine and version
-- $3 bigint[]:    the most rows to claim in that queue, over all its entries
-- $4 text[]:      the machine: a state machine, by its name in the column `fsm`
-- $5 int[]:       its version
-- $6 text[]:      the machines that declare signals: their inboxes are loaded
-- $7 text[]:      the queues to claim even if another claim has their claim lock
-- $8 boolean:     true if heads are claimed; otherwise they are returned unclaimed
-- $9 bigint[]:    the `kind` of an entry; $9 to $11 are the list of watermarks
-- $10 smallint[]: the priority, which names a group together with $9
-- $11 bigint[]:   the watermark: the time at which the group's first row was due, as the last claim
--                 saw it, in microseconds since 1970
-- $12 bigint:     the bytes that the states of rows without a partition key may weigh. Those of
--                 heads may weigh as much again
-- $13 boolean:    true for a light claim, without large states and signals, because claims with
--                 them failed
--
-- The estimated cost must stay far below `jit_above_cost`, however large the table is, or Postgres
-- compiles the statement each time. Two forms look redundant and serve this. A query in
-- `unnest(array(...))` counts as ten rows, where a recursive query counts as thousands. The limit
-- of 1000, the most rows that a claim asks for in a queue, bounds the estimate of a limit that the
-- planner cannot see.
--
-- The cost must not depend on the parameters either, or Postgres plans the statement each time. A
-- third form serves this: `(select $n)` hides the length of an array. `heads` and `loaded` do
-- without it, as they only compare with their arrays. The cast of $7 is needed because `any` of a
-- bare subquery compares with its rows.
with recursive claim_locks as materialized (
    -- 1. The claim lock of each queue: one claim of a queue runs at a time. `taken` is true if this
    --    claim has got it. A claim waits for no claim lock: it leaves the queue out. The seed 5298
    --    keeps claim locks apart from the locks of partition keys, which have 5297.
    --
    --    Without claim locks, claims overlap and scan the same rows. Claim A claims a row and
    --    commits. Claim B has an older snapshot, in which the row is runnable. B locks the row,
    --    checks it again, finds it executing and skips it. But Postgres keeps B's row lock until B
    --    ends. If the row's step ends before that, its outcome cannot be committed: commit.sql
    --    skips locked rows, and has to be tried again. Claim locks make this rare: it still happens
    --    if A ends between B's snapshot and B's claim lock.
    select q.queue, pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(q.queue, 5298)) as taken
    from (select distinct k.queue from pg_catalog.unnest((select $2::text[])) as k (queue)) as q
),
known as materialized (
    -- 2. The watermarks that the worker knows. A claimed row leaves a dead tuple in the index until
    --    a vacuum, and the dead tuples lie before the rows that wait. At ten thousand rows a
    --    second, each claim from the beginning would soon step over half a million of them.
    --    Therefore a claim reads a group from its watermark on. A row may come to lie before the
    --    watermark: it was given back, scheduled for the past, let in by a partition key, or
    --    written by a slow transaction. The next claim without watermarks finds it. While a worker
    --    claims, it sends such a claim every few seconds at least.
    select n.kind, n.priority, n.since
    from unnest((select $9::bigint[]), (select $10::smallint[]), (select $11::bigint[]))
        as n (kind, priority, since)
),
groups (kind, queue, wanted, fsm, fsm_version, priority) as (
    -- 3. The groups that have rows or a watermark. The recursion goes from group to group, and only
    --    the first rows of each are read. One scan of the queue in the order of priority and time
    --    would step over each row of a machine that the worker does not run. It would also step
    --    over each row that is scheduled for later at a more urgent priority.
    --
    -- Each entry begins below the lowest priority number, before its first group. No row has that
    -- priority, so this beginning finds nothing in `ready`.
    select k.kind, k.queue, k.wanted, k.fsm, k.fsm_version, -32769
    from unnest(
        (select $2::text[]), (select $3::bigint[]), (select $4::text[]), (select $5::int[])
    ) with ordinality as k (queue, wanted, fsm, fsm_version, kind)
    -- A queue in $7 is claimed without its claim lock, because the claim that has it may be stuck.
    -- Rows that the other claim has locked are skipped.
    where k.queue = any (array(
        select t.queue from claim_locks t where t.taken or t.queue = any ((select $7::text[])::text[])
    ))
    union all
    -- One step goes from a group to the next one of the same entry. `known.priority` is the next
    -- group with a watermark. A group without one may lie before it: its rows are new, or none was
    -- due at the last claim.
    select g.kind, g.queue, g.wanted, g.fsm, g.fsm_version, next.priority
    from groups g
    cross join lateral (
        select pg_catalog.min(n.priority)::int as priority
        from known n
        where n.kind = g.kind and n.priority > g.priority
    ) as known
    cross join lateral (
        -- One descent of the index finds such a group. Its range ends before the group with the
        -- watermark, whose dead tuples it would otherwise read. The first three columns of the sort
        -- have one value here. They are listed because the order is that of the index, which begins
        -- with them.
        select coalesce(
            (
                select i.priority
                from gen_durable.instances i
                where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
                  and i.priority > g.priority and i.priority < coalesce(known.priority, 32768)
                  and i.status = 'runnable' and i.blocked_by = 0
                order by i.queue, i.fsm, i.fsm_version, i.priority
                limit 1
            ),
            known.priority
        ) as priority
    ) as next
    where next.priority is not null
),
ready as (
    -- 4. The first due rows of each group, as many as the queue asks for, as if no row were locked.
    --    `place` numbers those of a queue, the most urgent first.
    select g.*, s.since, due.eligible_at, pg_catalog.row_number() over (
        partition by g.queue order by g.priority, due.eligible_at, due.id
    ) as place
    from unnest(
        array(select kind from groups), array(select queue from groups),
        array(select wanted from groups), array(select fsm from groups),
        array(select fsm_version from groups), array(select priority from groups)
    ) as g (kind, queue, wanted, fsm, fsm_version, priority)
    cross join lateral (
        select coalesce(
            -- `eligible_at` is by default the time at which the inserting transaction began. If
            -- that one ends late, its rows appear before a watermark that was set meanwhile. The
            -- claim allows a quarter of a second for it.
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
              and i.status = 'runnable' and i.blocked_by = 0
              and i.eligible_at >= s.since and i.eligible_at <= gen_durable.now()
            order by i.eligible_at, i.id
            limit 1000
        ) as ahead
        limit g.wanted
    ) as due
),
shares as materialized (
    -- 5. The number of rows to claim of each group (`wanted`). Each queue gets its most urgent
    --    rows, and no more of them than it asks for.
    select kind, queue, fsm, fsm_version, priority, since, pg_catalog.count(*) as wanted
    from ready
    where place <= wanted
    group by kind, queue, fsm, fsm_version, priority, since
),
found as materialized (
    -- 6. The rows of each group, locked. Rows that another transaction has locked, or claimed since
    --    the snapshot, are skipped, and the next ones of the same group come in their place. Claims
    --    therefore never wait for each other. The outer limit stops the inner query, so no row
    --    beyond it is locked. `place` numbers the rows of all queues, the most urgent first.
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
              and i.status = 'runnable' and i.blocked_by = 0
              and i.eligible_at >= s.since and i.eligible_at <= gen_durable.now()
            order by i.eligible_at, i.id
            limit 1000
            for no key update skip locked
        ) as ahead
        limit s.wanted
    ) as row
    -- A worker whose lease has run out claims nothing: the reaper takes the rows of such a worker.
    where exists (
        select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > gen_durable.now()
    )
),
candidates as materialized (
    -- 7. The candidates: the most urgent rows, each if the states of those before it weigh less
    --    than $12 bytes. Postgres can send no array beyond 1 GiB, and small rows must not wait
    --    until large ones are sent. The rows that do not fit stay runnable, and `cut` is true then.
    --
    --    Rows with a partition key do not count in this sum. If their keys have holders, they are
    --    not claimed, and their states are not loaded.
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
    -- 8. The plain heads. Their states have a sum of their own, up to $12 again, so a claim may
    --    load about twice $12 bytes.
    --
    --    Only the most urgent candidate of a key (`first`) can be its head. All other candidates
    --    with a key are returned unclaimed.
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
        -- The key is free. A subquery with a limit stands for "not exists", which could be planned
        -- as a join with all executing rows.
        --
        -- The candidate is the head. The head may also be a row that the claim has not found: one
        -- that is blocked, or that another transaction has locked. claim_partitions.sql decides
        -- about the candidate then.
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
        -- A thousand locks would fill a small server's table of locks.
        order by first.place
        limit 250
    ) as k
    -- The key's lock (seed 5297) comes last. A commit that frees a key waits for this lock, and
    -- must not wait for a claim that has no use for the key.
    --
    -- This statement's snapshot is older than the lock, so it may miss a holder. Claim A is this
    -- one, and has its snapshot. Claim B claims another row of the key (one inserted after that
    -- snapshot, perhaps) and commits, which releases the key's lock. A takes the lock, and sees no
    -- holder. When A updates its own row, it meets the unique index `instances_partition_holder`,
    -- which admits one executing row of a key. There are two cases:
    --
    -- - B's row executes. The index refuses A's row, and A fails.
    -- - Transaction C is committing the outcome of B's row. C has updated the row, and waits in
    --   lock_partitions.sql for the key's lock, which A has. A waits in the index for the end of C.
    --   Postgres would find this deadlock after a second (`deadlock_timeout`), and might end C. A
    --   gives up before that: its lock timeout is a tenth of a second.
    --
    -- Either way the worker repeats A with $8 false. claim_partitions.sql then claims the head,
    -- with a snapshot that is younger than the lock.
    --
    -- `set_config` is no condition: it never returns null. It sets A's lock timeout if there may be
    -- a plain head. The update below needs all plain heads, so it comes after that.
    where k.before < $12
      and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(k.partition_key, 5297))
      and pg_catalog.set_config('lock_timeout', '100ms', true) is not null
),
claimed as (
    -- 9. The rows without a partition key, and the heads.
    update gen_durable.instances i
    set status = 'executing',
        locked_by = $1,
        -- Each claim raises the revision. A commit must name the present one (commit.sql), so a
        -- worker that has lost the row cannot commit. The revision begins anew at 2^62: a row with
        -- an absurd one must not fail the whole claim by an overflow.
        revision = i.revision % 4611686018427387904 + 1,
        -- A row holds its unique key in the statuses of its scope. If `executing` is none of them,
        -- the claim releases the unique key for good.
        trace_context = case
            when i.eligible_at > i.updated_at then '-' || pg_catalog.ltrim(i.trace_context, '-')
            else i.trace_context
        end,
        unique_released = i.unique_released or 'executing' <> all (i.unique_scope),
        updated_at = gen_durable.now()
    where i.id = any (array(
        select c.id from candidates c where c.partition_key is null
        union all
        select h.id from heads h
    ))
    returning i.*
),
loaded as materialized (
    -- 10. The contents of the claimed rows. A state beyond 256 MiB is not loaded. One that takes
    --     less than 1 MiB on disk is loaded without a look at its length. A light claim loads only
    --     states that take less than 16 KiB on disk. It loads no signals: if there are any, the
    --     inbox is `[[],true]`.
    select i.id, i.step, i.attempt, i.failures, i.revision, i.awaits, i.report_to, i.trace_context,
           i.eligible_at,
           case
               when pg_catalog.pg_column_size(i.state) < 16384 then i.state
               when not $13::boolean and (
                   pg_catalog.pg_column_size(i.state) < 1048576
                   or pg_catalog.octet_length(i.state::text) <= 268435456
               ) then i.state
           end as state,
           -- An inbox is JSON, `[[signal, ...], more]`: `more` is true if signals were left out.
           -- The oldest are loaded: at most 100, and those that begin within 64 KiB. One signal
           -- more is read, which tells `more`.
           case when i.fsm <> all ($6::text[]) then null when $13 then (
               select '[[],true]' from gen_durable.signals s where s.target_id = i.id limit 1
           ) else (
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
           ) end as inbox
    from claimed i
),
first as materialized (
    -- 11. The new watermarks: the time of the first due row of each group. Rows that this claim
    --     takes count too: the next claim begins with their dead tuples.
    --
    --     The time is null if the claim found a row of the same entry with a partition key. A
    --     blocked row may be old, and may come back into the index at any time. The worker then
    --     forgets all watermarks of the entry. For a while claims read its groups from the
    --     beginning.
    select r.kind, r.priority, case
        when r.kind <> all (array(select f.kind from found f where f.partition_key is not null))
        then (extract(epoch from pg_catalog.min(r.eligible_at)) * 1000000)::bigint
    end as since
    from ready r
    -- The time `-infinity` has no number of microseconds: the cast would fail. Therefore rows that
    -- have been due for a century leave no watermark.
    where r.eligible_at > gen_durable.now() - interval '1 century'
    group by r.kind, r.priority
)
-- 12. One row of arrays: a message for each row would cost both sides more than the claim.
--
--     These have an element for each candidate, in the order in which the rows should run. They are
--     null if there are no candidates. From `steps` to `inboxes`, and in `failures`, the element of
--     an unclaimed candidate is null.
--     kinds:      the entries of the candidates
--     steps:      null for an unclaimed candidate alone, so it tells the claimed ones apart
--     states:     null also for a state that is not loaded
--     timed_out:  true if the row waited for a signal until its time ran out, which leaves an
--                 empty list in `awaits`. Null for other rows, in which `awaits` is null
--     inboxes:    as in `loaded`; null also for an empty inbox
--     receivers:  the instances to which the rows report their ends, or null
--     trace_contexts: null for a row without one
--
--     These describe the claim as a whole.
--     refused:    the queues whose claim lock another claim has. Those in $7 were claimed all the
--                 same
--     first_...:  the new watermarks: `kind`, priority and time
--     left_out:   true if fewer rows were found than `shares` wanted: other transactions have
--                 locked or claimed the others, or the lease has run out. The claimer must look
--                 again by itself, as nothing wakes it when a row lock ends. Null if no row was due
--     claimed_at: the database's time, in microseconds since 1970
--     cut:        true if rows were left because of the weight of others
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
       pg_catalog.array_agg(row.report_to) as receivers,
       pg_catalog.array_agg(row.trace_context) as trace_contexts,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as claimed_at,
       -- The time for which each row has been due, a year at most: the difference to an infinite
       -- time would fail the whole claim.
       pg_catalog.array_agg(
           gen_durable.now() - greatest(row.eligible_at, gen_durable.now() - interval '1 year')
       ) as waited,
       (select pg_catalog.count(*) from candidates) < (select pg_catalog.count(*) from found) as cut
from (
    select c.id, c.kind, c.partition_key,
           l.step, l.state, l.attempt, l.failures, l.revision, l.awaits, l.report_to, l.trace_context,
           l.inbox, l.eligible_at
    from candidates c
    left join loaded l on l.id = c.id
    order by c.place
) as row
