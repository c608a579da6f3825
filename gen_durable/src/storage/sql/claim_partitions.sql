-- Claims the head of each partition key whose lock this transaction holds, and takes the other
-- candidates of busy keys out of the claim's index. The claimer runs it for the candidates that
-- claim.sql did not claim.
--
-- Invariant: at most one row of a key executes. Each transaction that claims or frees a key holds
-- the key's lock until its commit is visible. This statement's snapshot is younger than the lock,
-- so it shows each holder.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the candidates, the most urgent first
-- $3 text[]:   the partition keys whose locks this transaction holds
-- $4 text[]:   the machines that the worker runs
-- $5 int[]:    the version of each
-- $6 text[]:   the machines that declare signals: their inboxes are loaded
-- $7 text[]:   the queues of the claim
-- $8 bigint:   the bytes that the heads' states may weigh
-- $9 boolean:  true for a light claim, as in claim.sql
--
-- Rows whose ids are known are looked up by id alone: `status || ''` fits no index. Statistics
-- taken while nothing was runnable would make the claim's index look free.
with partitions as materialized (
    -- 1. The keys, and if an executing row holds them (`busy`). A subquery with a limit stands for
    --    "exists", which may be planned as a scan of all executing rows.
    select p.partition_key, (
        select true from gen_durable.instances h
        where h.partition_key = p.partition_key and h.status = 'executing'
        limit 1
    ) is not null as busy
    from pg_catalog.unnest($3::text[]) as p (partition_key)
),
heads as materialized (
    -- 2. The head of each free key, found among all rows of the key and not among the candidates:
    --    another claim's lock may have hidden an earlier row from the claim that found the
    --    candidates.
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
    where not p.busy
      and exists (select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > gen_durable.now())
),
locked_heads as materialized (
    -- 3. The heads that no other transaction has locked, with the weight of the states before each.
    --    A compressed state weighs eight times what it takes on disk, as in claim.sql.
    select row.id, h.partition_key, pg_catalog.sum(row.weight) over (
        order by row.priority, row.eligible_at, row.id rows between unbounded preceding and 1 preceding
    ) as before
    from heads h
    cross join lateral (
        select i.id, i.priority, i.eligible_at,
               pg_catalog.pg_column_size(i.state)::bigint * case
                   when pg_catalog.pg_column_compression(i.state) is null then 1 else 8
               end as weight
        from gen_durable.instances i
        where i.id = h.id and i.status || '' = 'runnable'
        for no key update skip locked
    ) as row
),
taken as materialized (
    -- 4. The most urgent of them, until their states weigh $8 bytes.
    select l.id, l.partition_key from locked_heads l where coalesce(l.before, 0) < $8
),
held as materialized (
    -- 5. The keys that are busy after this statement. A key is not among them if another
    --    transaction has its head locked (one that signals it). Nor is it if its head was left for
    --    its weight. No commit will free such a key, so a candidate of it stays in the claim's
    --    index. A later claim finds the head by that candidate.
    select p.partition_key
    from partitions p
    where p.busy or p.partition_key in (select t.partition_key from taken t)
),
candidates as materialized (
    -- 6. The candidates as they are now, numbered within their key, queue, machine and version.
    --    Each is looked up by itself: a scan for the keys would read all rows that wait for them. A
    --    candidate may have run since it was found, and be scheduled for later. Such a row waits
    --    for no key. If it were blocked, it would later be taken back in the place of another row.
    select i.id, i.partition_key, pg_catalog.row_number() over (
        partition by i.partition_key, i.queue, i.fsm, i.fsm_version order by c.place
    ) as place
    from pg_catalog.unnest((select $2::bigint[])) with ordinality as c (id, place)
    cross join lateral (
        select i.id, i.partition_key, i.queue, i.fsm, i.fsm_version
        from gen_durable.instances i
        where i.id = c.id and i.partition_key = any ($3::text[])
          and i.status || '' = 'runnable' and not i.blocked and i.eligible_at <= gen_durable.now()
        offset 0
    ) as i
),
waiting as materialized (
    -- 7. The candidates to take out of the index, locked: all of a busy key, and of any other key
    --    all but the first of each queue, machine and version.
    select row.id
    from candidates c
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.id = c.id and i.status || '' = 'runnable' and not i.blocked
        for no key update skip locked
    ) as row
    where (c.place > 1 or c.partition_key in (select h.partition_key from held h))
      and c.id not in (select h.id from heads h)
),
blocked as (
    -- 8. These candidates leave the claim's index.
    update gen_durable.instances i
    set blocked = true
    where i.id = any (array(select w.id from waiting w))
),
claimed as (
    -- 9. The heads are claimed, as in claim.sql.
    update gen_durable.instances i
    set status = 'executing',
        blocked = false,
        locked_by = $1,
        revision = i.revision % 4611686018427387904 + 1,
        unique_scope = case when 'executing' = any (i.unique_scope) then i.unique_scope end,
        updated_at = gen_durable.now()
    where i.id = any (array(select t.id from taken t))
    returning i.*
)
-- 10. One row for each claimed head, in the order in which the heads should run. If none was
--     claimed, one row in which only `blocked` and `claimed_at` are set. `blocked` is the number of
--     candidates taken out of the index. States and inboxes are bounded as in claim.sql.
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
           ) end as inbox,
       (select pg_catalog.count(*) from waiting) as blocked,
       i.failures,
       (extract(epoch from gen_durable.now()) * 1000000)::bigint as claimed_at
from (select) as answer
left join claimed i on true
order by i.priority, i.eligible_at, i.id
