-- Claims runnable rows for the worker $1: up to $3 rows in each queue of $2, of the machine $4 in
-- the version $5 (a list of each queue with each machine); the machines in $6 have an inbox to load.
--
-- The answer is bounded in bytes, as Postgres can send no array beyond 1 GiB, and as one claim's rows
-- must not keep others waiting. Rows are taken, most urgent first, until their states weigh $12 bytes,
-- those without a partition key and those with one apart. What is left stays runnable, and `cut` says
-- so. A compressed state counts for eight times what it takes on disk: its length is known only to those
-- who unpack it. A state beyond 256 MiB is not loaded. If $13 is true, as claims have failed that would
-- have brought more, no state is that takes 16 KiB on disk, and no signal.
--
-- Of each inbox the oldest signals are loaded: at most 100, and those that begin within 64 KiB. Beside
-- them the answer says whether there are more.
--
-- One claim of a queue at a time. Those that overlap walk over each other's rows, lock what another one
-- has just taken until they end, and hold up its commits by that. So a claim tries to take the queue's
-- turn, and leaves a queue alone whose turn another one has: it waits for nobody. The queues in $7 are
-- claimed out of turn, for whoever has the turn may be stuck; rows that it has locked are skipped.
--
-- A scan that walks the queue in (priority, eligible_at) order would have to step over every row
-- that is scheduled for later at a more urgent priority, and over every row of an unknown machine.
-- So the groups (queue, machine, version, priority) that exist are found first, each by one
-- descent of the index, and only the heads of the groups are read.
--
-- What was claimed is dead in the index until a vacuum, and lies before what waits: at ten thousand rows a
-- second each look from the beginning would soon step over half a million. So a claim is told from where on to
-- look in the groups that it knows: group by group, in $9 the place in the lists, in $10 the priority, in $11
-- where the first row was that the last claim saw waiting, and the answer says it anew. A transaction that began
-- before that row was written, and ended later, is allowed a quarter of a second. What else came to lie before (a row
-- that was given back, or scheduled for the past), is found by the claims that are told nothing. The answer is
-- null for a machine of which rows with partition keys wait: what a key lets in next may be old.
--
-- A row with a partition key is claimed here if it is plain that it may run ($8 says whether to look):
-- nobody holds the key or is about to, and the row is the key's head. Otherwise it is returned as a
-- candidate: its step is null.
--
-- The lock of a key is tried last, so that no commit that frees a key has to wait for a claim that has no use
-- for it. The snapshot is older than that lock, so the holder may be news to it: a row that came, was
-- claimed and committed since. Then the index `instances_partition_holder` refuses the claim of all, and
-- it is made again without a look at keys. If the holder's commit is under way, and waits for the lock, the
-- claim waits for it in the index: for a tenth of a second, less than what Postgres looks for deadlocks after.
--
-- The answer is one row of arrays, in the order in which the rows should run: a message for each
-- row would cost both sides more than the claim. `kinds` are places in the lists, from one. `left_out` says that
-- rows were left out because somebody has locked them, and nothing was found in their place: nobody tells when
-- they are free. It is null if there was nothing to claim.
--
-- The statement runs a thousand times a second. Its estimated cost must stay far below what makes
-- Postgres compile it (jit_above_cost), however large the table is, and must not depend on the
-- parameters, or Postgres plans it anew each time. Hence three forms that look idle: `(select $n)`
-- hides an array's length from the planner; `unnest(array(select ...))` is taken for ten rows where a
-- recursive query is taken for thousands; and a limit of 1000, the most that is ever asked for,
-- bounds what a limit that the planner cannot see is taken for.
with recursive claim_locks as materialized (
    select q.queue, pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(q.queue, 5298)) as taken
    from (select distinct k.queue from pg_catalog.unnest((select $2::text[])) as k (queue)) as q
),
known as materialized (
    select n.kind, n.priority, n.since
    from unnest((select $9::bigint[]), (select $10::smallint[]), (select $11::bigint[]))
        as n (kind, priority, since)
),
-- Each begins before its first group.
groups (kind, queue, wanted, fsm, fsm_version, priority) as (
    select k.kind, k.queue, k.wanted, k.fsm, k.fsm_version, -32769
    from unnest(
        (select $2::text[]), (select $3::bigint[]), (select $4::text[]), (select $5::int[])
    ) with ordinality as k (queue, wanted, fsm, fsm_version, kind)
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
    select kind, queue, fsm, fsm_version, priority, since, pg_catalog.count(*) as wanted
    from ready
    where place <= wanted
    group by kind, queue, fsm, fsm_version, priority, since
),
-- Rows that another claim has locked are skipped and the next ones taken, so that workers do not
-- wait for each other. The outer limit stops the inner query, so no more rows are locked than that.
found as materialized (
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
        -- Not "not exists", which could be planned as a join with all that executes.
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
        -- A thousand locks would fill a small server's table of locks. And without the limit the lock, which
        -- is cheaper than the looks, would be tried before them.
        order by first.place
        limit 250
    ) as k
    where k.before < $12
      and pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended(k.partition_key, 5297))
      and pg_catalog.set_config('lock_timeout', '100ms', true) is not null
),
claimed as (
    update gen_durable.instances i
    set status = 'executing',
        locked_by = $1,
        -- It begins anew at 2^62: an absurd one must not fail the claim of all.
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
    select i.id, i.step, i.attempt, i.failures, i.revision, i.awaits,
           case
               when pg_catalog.pg_column_size(i.state) < 16384 then i.state
               when not $13::boolean and (
                   pg_catalog.pg_column_size(i.state) < 1048576
                   or pg_catalog.octet_length(i.state::text) <= 268435456
               ) then i.state
           end as state,
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
    select r.kind, r.priority, case
        when r.kind <> all (array(select f.kind from found f where f.partition_key is not null))
        then (extract(epoch from pg_catalog.min(r.eligible_at)) * 1000000)::bigint
    end as since
    from ready r
    -- An infinite time has no number.
    where r.eligible_at > gen_durable.now() - interval '1 century'
    group by r.kind, r.priority
)
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
