-- Claims the head of each partition key in $3, whose locks this transaction holds, for the worker
-- $1, of the machines $4 in the versions $5 and in the queues $7; the machines in $6 have an inbox.
-- Candidates ($2) that must wait for their key are taken out of the claim's index; each row of the
-- answer says how many, and there is a row also if nothing was claimed. Heads are taken, most urgent
-- first, until their states weigh $8 bytes; what is loaded of each is bounded as in claim.sql, by $9 too.
--
-- Rows that are known by their id are looked up by it alone: `status` is compared in a way that no index
-- serves, as statistics taken while nothing was runnable would make the claim's index look free.
--
-- Whoever claims or frees a key holds its lock until its commit is visible, and this statement's
-- snapshot is younger than the lock: what it sees of the key is the truth.
--
-- A key whose head somebody has locked (a transaction that signals it), or whose head is left for its
-- weight, keeps a candidate in the claim's index, as nobody will free it: a claim finds the head by that
-- candidate when the lock has gone.
with partitions as materialized (
    -- Not "exists", which may be planned as a look at all that executes.
    select p.partition_key, (
        select true from gen_durable.instances h
        where h.partition_key = p.partition_key and h.status = 'executing'
        limit 1
    ) is not null as busy
    from pg_catalog.unnest($3::text[]) as p (partition_key)
),
-- The head is found among all rows of the key, not among the candidates: another claim's lock may
-- have hidden an earlier row from them.
heads as materialized (
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
    select l.id, l.partition_key from locked_heads l where coalesce(l.before, 0) < $8
),
held as materialized (
    select p.partition_key
    from partitions p
    where p.busy or p.partition_key in (select t.partition_key from taken t)
),
-- Each candidate is looked up by itself: a scan for the keys would read all that waits for them. It may have run
-- since it was found, and come back later: then it waits for no key, and would be taken back in another one's place.
candidates as materialized (
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
    update gen_durable.instances i
    set blocked = true
    where i.id = any (array(select w.id from waiting w))
),
claimed as (
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
