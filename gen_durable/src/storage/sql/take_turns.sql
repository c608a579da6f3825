-- Admits runs of limited steps as far as their buckets have room, and notes what the other runs of
-- the worker hold. The limiter runs it.
--
-- Invariant: a bucket's row is its lock. The runs that come in are reckoned from the row as it is
-- under that lock: Postgres evaluates `set (...) = (select ...)` for that version of it. A worker
-- says how much it holds, and never by how much that has changed. Therefore a lost answer leaves
-- nothing behind, and a late statement changes nothing.
--
-- Buckets are locked in their order, and nothing else is.
--
-- $1 bigint:   the worker
-- $2 bigint:   the number of this statement: the worker's later ones have larger numbers
-- $3 text[]:   the buckets, each once, in the order of their bytes
-- $4 text[]:   the limits of these buckets
-- $5 int[]:    the weight of the runs that the worker has in each, besides those that ask
-- $6 int[]:    the weight of each run that asks
-- $7 text[]:   the instances that ask, in their order: a list of ids for each bucket
-- $8 bigint:   the microseconds by which a run may be admitted before its time
with asks as materialized (
    -- 1. The buckets, with the bounds in force.
    select a.bucket, a.mine, a.weight, a.ids::bigint[] as ids, a.nth,
           l.max_at_once::bigint as at_once, l.max_starts::bigint as starts, l.max_period as period,
           l.max_burst::bigint as burst, (extract(epoch from gen_durable.now()) * 1000000)::bigint as now
    from rows from (
        unnest($3::text[], $4::text[], $5::int[], $6::int[], $7::text[]),
        pg_catalog.generate_subscripts($3::text[], 1)
    ) as a (bucket, limit_name, mine, weight, ids, nth)
    join gen_durable.limits l on l.name = a.limit_name and l.name = any ($4::text[])
    order by a.nth
),
living as materialized (
    -- 2. The workers that can hold anything: those that are there, whatever the clock says of their
    --    leases, and those that were removed a moment ago.
    select pg_catalog.array_agg(w.id) as ids
    from (
        select w.id from gen_durable.workers w
        union all
        select l.worker
        from gen_durable.lost_workers l
        where l.lost_at <= gen_durable.now() and l.counts_until > gen_durable.now()
    ) as w
),
locked as materialized (
    -- 3. The buckets, locked in their order, whatever the plan of the update is.
    select b.bucket
    from gen_durable.limit_buckets b
    where b.bucket = any ($3::text[])
    order by b.bucket
    for no key update
)
update gen_durable.limit_buckets b
set (used_until, workers, held, said, admitted, let_in) = (
    select case
               when a.starts is null then a.now
               -- Rounded up, so that no rounding lets a run in too early.
               else may.used + (turn.runs * a.weight * a.period + a.starts - 1) / a.starts
           end,
           -- A worker stays in the list while it lives, also with nothing: its number must be known
           -- when a late statement comes.
           pg_catalog.array_append(others.workers, $1::bigint),
           pg_catalog.array_append(others.held_each, (a.mine + turn.runs * a.weight)::int),
           pg_catalog.array_append(others.said, $2::bigint),
           may.ids[1:turn.runs::int],
           case
               when b.let_in = '{}' then b.let_in
               else array(select l.id from unnest(b.let_in) as l (id) where l.id <> all (a.ids))
           end
    from (
        -- 4. The runs of the others. A worker that the snapshot does not show may have come since
        --    then: it is looked up under the lock.
        select coalesce(pg_catalog.sum(s.held), 0)::bigint as held, pg_catalog.array_agg(s.worker) as workers,
               pg_catalog.array_agg(s.held) as held_each, pg_catalog.array_agg(s.said) as said
        from unnest(b.workers, b.held, b.said) as s (worker, held, said)
        where s.worker <> $1::bigint and case
            when s.worker = any ((select l.ids from living l)::bigint[]) then true
            else gen_durable.holds(s.worker)
        end
    ) as others
    cross join lateral (
        -- 5. The instances that may come in: while others wait, those that were let in. And the
        --    time until which the rate is used up. If the clock went back, or the bounds were
        --    changed, the rate counts as used up by a whole burst, and not by more.
        select case
                   when b.wakes_at is null then a.ids
                   else array(
                       select asked.id
                       from unnest(a.ids) with ordinality as asked (id, nth)
                       where asked.id = any (b.let_in)
                       order by asked.nth
                   )
               end as ids,
               greatest(least(
                   b.used_until, own.now + $8::bigint + (a.burst * a.period + a.starts - 1) / a.starts
               ), a.now) as used
        -- The clock as it is under the lock. This statement may have waited for it, and others may
        -- have used up the rate meanwhile.
        from (select (extract(epoch from gen_durable.clock()) * 1000000)::bigint as now) as own
    ) as may
    cross join lateral (
        -- 6. The number of runs that have room. `least` ignores the bound that is null.
        select greatest(least(
                   pg_catalog.cardinality(may.ids),
                   (a.at_once - others.held - a.mine) / a.weight,
                   (a.burst * a.period - (may.used - a.now - $8::bigint) * a.starts) / (a.weight * a.period)
               ), 0) as runs
    ) as turn
)
from asks a
where b.bucket = any (array(select l.bucket from locked l)) and b.bucket || '' = a.bucket
  and coalesce(b.said[pg_catalog.array_position(b.workers, $1::bigint)], 0) < $2::bigint
  -- A worker whose lease has run out begins nothing.
  and exists (
      select from gen_durable.workers w
      where w.id = $1::bigint and w.lease_expires_at > gen_durable.now()
  )
returning a.nth, b.admitted, b.wakes_at is not null as waited,
          -- The time until which the rate is used up now, from which the engine reckons when each
          -- run may start; and how full the bucket is.
          b.used_until - a.now as used, a.starts, a.period, a.burst, a.at_once,
          (select pg_catalog.sum(h.held) from unnest(b.held) as h (held)) as held
