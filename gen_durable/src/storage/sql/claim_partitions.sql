-- Claims the head of each partition key whose lock this transaction has, and blocks candidates that
-- wait for their keys. The claimer runs it for the candidates that claim.sql returned unclaimed.
-- claim.sql defines the words.
--
-- The transaction began after the end of claim.sql's. lock_free_partitions.sql, its statement
-- before this one, took the locks of the keys in $3: advisory locks, with the seed 5297.
--
-- Invariant: at most one row of a key executes. Each transaction that makes or unmakes a holder has
-- the key's lock until its commit is visible. This statement's snapshot is younger than the locks,
-- so it shows each holder.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the candidates, the most urgent first
-- $3 text[]:   the partition keys whose locks this transaction has
-- $4 text[]:   the machines that the worker runs
-- $5 int[]:    the version of each
-- $6 text[]:   the machines that declare signals: their inboxes are loaded
-- $7 text[]:   the queues of the claim
-- $8 bigint:   the bytes that the heads' states may weigh
-- $9 boolean:  true for a light claim, as in claim.sql
--
-- Rows that wait for their keys are blocked, so that claims need not step over them: they have the
-- bit 1 in `blocked_by`. Inserts of several rows, this statement and block_ahead.sql set it. The
-- transaction that frees the key clears it for some rows (unblock_partitions.sql): of each queue,
-- machine and version for the most urgent row that has it, due or not. A claim clears it too. Two
-- rules follow:
--
-- - First rule: only due rows get the bit.
-- - Second rule: of a free key, each queue, machine and version that has due rows keeps one of them
--   in the claim's index. The key has no holder whose end would clear the bit. Claims find a key
--   only by a row in the index, and each claim asks only for its own worker's queues, machines and
--   versions.
--
-- A head that is blocked for another reason keeps its place: the rows behind it wait, as if it held
-- the key. It comes back into the index when that reason ends, and its own end frees the key. If it
-- ends or is put off before that, stranded_partitions.sql finds the rows behind it.
--
-- `status || ''` is a fence for the planner: it fits no index, so rows whose ids are known are
-- looked up by id. The claim's index has runnable rows only. If statistics were taken while there
-- were none, it looks empty, and a scan of it seems to cost nothing.
with partitions as materialized (
    -- 1. The keys, and if they have a holder (`busy`). A subquery with a limit stands for "exists",
    --    which may be planned as a scan of all executing rows.
    select p.partition_key, (
        select true from gen_durable.instances h
        where h.partition_key = p.partition_key and h.status = 'executing'
        limit 1
    ) is not null as busy
    from pg_catalog.unnest($3::text[]) as p (partition_key)
),
heads as materialized (
    -- 2. The head of each free key, found among all rows of the key and not among the candidates.
    --    claim.sql does not find a head that is blocked, or on which another transaction has a row
    --    lock.
    select head.id, p.partition_key
    from partitions p
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.partition_key = p.partition_key and i.status = 'runnable'
          and i.eligible_at <= gen_durable.now()
          and (i.fsm, i.fsm_version) in (select * from unnest($4::text[], $5::int[]))
          and i.queue = any ($7::text[])
        order by i.priority, i.eligible_at, i.id
        limit 1
    ) as head
    -- A worker whose lease has run out claims nothing: the reaper takes the rows of such a worker.
    where not p.busy
      and exists (select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > gen_durable.now())
),
locked_heads as materialized (
    -- 3. The heads on which no other transaction has a row lock. `barred` is true if a head is
    --    blocked for another reason than its key. The lock comes first, so that this reason does
    --    not end meanwhile. `before` is the weight of the states of more urgent heads. A compressed
    --    state weighs eight times what it takes on disk, as in claim.sql.
    select row.id, h.partition_key, row.barred, row.waits,
           pg_catalog.sum(row.weight) filter (where not row.barred) over (
               order by row.priority, row.eligible_at, row.id rows between unbounded preceding and 1 preceding
           ) as before
    from heads h
    cross join lateral (
        select i.id, i.priority, i.eligible_at,
               i.blocked_by & ~1 <> 0 as barred, i.blocked_by & 1 = 1 as waits,
               pg_catalog.pg_column_size(i.state)::bigint * case
                   when pg_catalog.pg_column_compression(i.state) is null then 1 else 8
               end as weight
        from gen_durable.instances i
        where i.id = h.id and i.status || '' = 'runnable'
        for no key update skip locked
    ) as row
),
taken as materialized (
    -- 4. The heads that are claimed: each if the states of the more urgent ones weigh less than $8
    --    bytes.
    select l.id, l.partition_key
    from locked_heads l
    where not l.barred and coalesce(l.before, 0) < $8
),
held as materialized (
    -- 5. The keys for which candidates wait: those that have a holder after this statement, and
    --    those whose head is barred. Any other key is free, and its head is not claimed: another
    --    transaction has a row lock on the head (one that signals it), or the head was left for its
    --    weight. By the second rule, candidates of such a key stay in the index, and a later claim
    --    finds the head by one of them.
    select p.partition_key
    from partitions p
    where p.busy
       or p.partition_key in (select t.partition_key from taken t)
       or p.partition_key in (select l.partition_key from locked_heads l where l.barred)
),
candidates as materialized (
    -- 6. The candidates as they are now. `place` numbers those of the same key, queue, machine and
    --    version.
    --
    --    A candidate may have run in another worker since claim.sql found it, and be scheduled for
    --    later. By the first rule it must not be blocked. Otherwise unblock_partitions.sql might
    --    pick it when the key is freed, for a more urgent priority. The row could not run yet. A
    --    due row of the same queue, machine and version would stay blocked in its place, and no
    --    claim would find it.
    --
    --    `offset 0` is a fence for the planner: each candidate is looked up by itself. A scan for
    --    the keys would read all rows that wait for them.
    select i.id, i.partition_key, pg_catalog.row_number() over (
        partition by i.partition_key, i.queue, i.fsm, i.fsm_version order by c.place
    ) as place
    from pg_catalog.unnest((select $2::bigint[])) with ordinality as c (id, place)
    cross join lateral (
        select i.id, i.partition_key, i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.id = c.id and i.partition_key = any ($3::text[])
          and i.status || '' = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
        offset 0
    ) as i
),
waiting as materialized (
    -- 7. The candidates to block, locked: all of a held key, and of any other key all but the first
    --    of each queue, machine and version. A head is not blocked: it is claimed, or must be
    --    found.
    select row.id
    from candidates c
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.id = c.id and i.status || '' = 'runnable' and i.blocked_by = 0
        for no key update skip locked
    ) as row
    where (c.place > 1 or c.partition_key in (select h.partition_key from held h))
      and c.id not in (select h.id from heads h)
),
blocked as (
    -- 8. These candidates leave the claim's index.
    update gen_durable.instances i
    set blocked_by = i.blocked_by | 1
    where i.id = any (array(select w.id from waiting w))
),
let_go as (
    -- 9. Barred heads no longer wait for the key: it is free. They are back in the claim's index as
    --    soon as their other reasons end.
    update gen_durable.instances i
    set blocked_by = i.blocked_by & ~1
    where i.id = any (array(select l.id from locked_heads l where l.barred and l.waits))
),
claimed as (
    -- 10. The heads are claimed, as in claim.sql. A head may have been blocked, and an executing
    --    row must not be.
    update gen_durable.instances i
    set status = 'executing',
        blocked_by = i.blocked_by & ~1,
        locked_by = $1,
        revision = i.revision % 4611686018427387904 + 1,
        trace_context = case
            when i.eligible_at > i.updated_at then '-' || pg_catalog.ltrim(i.trace_context, '-')
            else i.trace_context
        end,
        unique_released = i.unique_released or 'executing' <> all (i.unique_scope),
        updated_at = gen_durable.now()
    where i.id = any (array(select t.id from taken t))
    returning i.*
)
-- 11. One row for each claimed head, in the order in which the heads should run. If none was
--     claimed, one row in which only `blocked` and `claimed_at` are set. `blocked` is the number of
--     candidates that were blocked. States, inboxes, `timed_out`, `claimed_at` and `waited`
--     are as in claim.sql.
select i.id,
       i.partition_key,
       i.fsm,
       i.fsm_version,
       i.step,
       case
           when pg_catalog.pg_column_size(i.state) < 16384 then i.state::text
           when not $9::boolean and (
               pg_catalog.pg_column_size(i.state) < 1048576
               or pg_catalog.octet_length(i.state::text) <= 268435456
           ) then i.state::text
       end as state,
       i.queue,
       i.attempt,
       i.revision,
       i.awaits = '{}' as timed_out,
       case when i.fsm <> all ($6::text[]) then null when $9 then (
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
           ) end as inbox,
       (select pg_catalog.count(*) from waiting) as blocked,
       i.failures,
       i.report_to,
       i.trace_context,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as claimed_at,
       gen_durable.now() - greatest(i.eligible_at, gen_durable.now() - interval '1 year') as waited
from (select) as answer
left join claimed i on true
order by i.priority, i.eligible_at, i.id
