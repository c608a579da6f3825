-- Looks at buckets for which rows wait, and lets in as many rows as there is room for. The limiter
-- of each engine runs it.
--
-- A row that was let in is claimed, and asks for its turn (take_turns.sql). Until then it is in
-- `let_in`, and takes part of the room. One that cannot ask, as it was paused say, does not. Nor
-- does one that nobody claims for some seconds: it comes as a newcomer then.
--
-- Invariant: a bucket has no time of a next look only if no row waits for it. hold_back.sql counts
-- `waits` up. If the locked row has counted further than this statement's snapshot, rows may wait
-- that the snapshot does not show, and the next look is due at once.
--
-- Rows and buckets that another transaction has locked are left for a later look. All times are in
-- microseconds since 1970.
--
-- $1 bigint: the most buckets
-- $2 text[]: buckets to look at although their time has not come: something was given back
-- $3 bigint: the microseconds by which a run may be admitted before its time
-- $4 bigint: the microseconds for which the others must have been due
with clock as materialized (
    select (extract(epoch from gen_durable.now()) * 1000000)::bigint as now
),
found as materialized (
    -- 1. The buckets, as the snapshot shows them.
    select b.bucket, b.waits
    from gen_durable.limit_buckets b
    where b.bucket = any (array(
        select early.bucket from unnest($2::text[]) as early (bucket)
        union all
        select due.bucket
        from (
            select b.bucket
            from gen_durable.limit_buckets b
            where b.wakes_at <= (select c.now from clock c) - $4::bigint
            order by b.wakes_at
            limit $1::bigint
        ) as due
    ))
),
due as materialized (
    -- 2. The same, locked. A limit that no living program declares bounds nothing any more.
    select b.bucket, b.used_until, b.workers, b.held, b.let_in, b.let_in_at, b.weight, b.waits,
           l.max_at_once::bigint as at_once, l.max_starts::bigint as starts, l.max_period as period,
           l.max_burst::bigint as burst, c.now
    from gen_durable.limit_buckets b
    left join gen_durable.limits l on l.name = b.limit_name and exists (
        select from gen_durable.declarations d
        join gen_durable.workers w on w.id = d.worker
        where d.kind = 'limit' and d.name = l.name and w.lease_expires_at > gen_durable.now()
    )
    cross join clock c
    where b.bucket = any (array(select f.bucket from found f)) and b.wakes_at is not null
    for no key update of b skip locked
),
judged as materialized (
    -- 3. The room in each, for so many runs of the largest weight that was held back. Those that
    --    were let in before have some of it. `least` ignores the bound that is null.
    select d.bucket, d.now, d.waits, d.weight, d.at_once, d.starts, d.period, d.burst, room.used,
           room.turns, greatest(coalesce(least(room.places, room.turns), 1000000), 0) as room,
           asking.ids as let_in, d.let_in_at
    from due d
    cross join lateral (
        select coalesce(pg_catalog.sum(s.held), 0)::bigint as held
        from unnest(d.workers, d.held) as s (worker, held)
        where gen_durable.holds(s.worker)
    ) as others
    cross join lateral (
        -- The time until which the rate is used up, as in take_turns.sql.
        select greatest(least(
                   d.used_until, own.now + $3::bigint + (d.burst * d.period + d.starts - 1) / d.starts
               ), d.now) as used
        from (select (extract(epoch from gen_durable.clock()) * 1000000)::bigint as now) as own
    ) as rate
    cross join lateral (
        select rate.used, (d.at_once - others.held) / d.weight as places,
               (d.burst * d.period - (rate.used - d.now - $3::bigint) * d.starts) / (d.weight * d.period) as turns
    ) as room
    cross join lateral (
        select coalesce(pg_catalog.array_agg(i.id), '{}') as ids
        from gen_durable.instances i
        where i.id = any (d.let_in) and d.let_in_at > d.now - 5000000
          and case i.status
              when 'runnable' then i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
              else i.status = 'executing'
          end
    ) as asking
),
chosen as materialized (
    -- 4. The rows that come in: the first ones of each bucket, and a thousand at most.
    select j.bucket, row.id
    from judged j
    cross join lateral (
        select i.id
        from gen_durable.instances i
        where i.limited_by = j.bucket and i.blocked_by = 16 and i.blocked_by & 16 = 16
          and i.status = 'runnable' and i.eligible_at <= gen_durable.now()
        order by i.limited_by, i.blocked_by, i.priority, i.eligible_at, i.id
        limit greatest(least(j.room, 1000) - pg_catalog.cardinality(j.let_in), 0)
        for no key update skip locked
    ) as row
    limit 1000
),
freed as (
    update gen_durable.instances i
    set blocked_by = i.blocked_by & ~16
    where i.id = any (array(select c.id from chosen c))
    returning i.queue, i.fsm, i.fsm_version, i.priority
),
planned as (
    -- 5. The buckets, with the time of their next look:
    --    - at once, if rows may wait that the snapshot does not show;
    --    - never, if no other row waits;
    --    - in a while, if the row is heavier than the bounds, or if all others wait for something
    --      else as well;
    --    - soon, if room is left: rows are locked, or a thousand were let in;
    --    - when the rate has room for one more, but for the time that it takes to let it in. Rows
    --      come in by several at a time, and less often while nobody claims them;
    --    - when a run has ended, whose engine looks at once, or else in a while: its worker may be
    --      lost.
    --    A rate that counts as used up by less than before stays so. The weight is found out anew
    --    by the next row that finds no room.
    update gen_durable.limit_buckets b
    set used_until = least(b.used_until, j.used),
        let_in = j.let_in || mine.ids,
        let_in_at = case when j.let_in = '{}' then j.now else j.let_in_at end,
        weight = case when j.let_in = '{}' and mine.ids <> '{}' or j.weight > least(j.at_once, j.burst) then 1 else b.weight end,
        wakes_at = case
            when j.waits > f.waits then j.now
            when not exists (
                select from gen_durable.instances i
                where i.limited_by = j.bucket and i.blocked_by & 16 = 16 and i.id <> all (mine.ids)
            ) then null
            when j.weight > least(j.at_once, j.burst) or not exists (
                select from gen_durable.instances i
                where i.limited_by = j.bucket and i.blocked_by = 16 and i.blocked_by & 16 = 16
                  and i.id <> all (mine.ids)
            ) then j.now + 5000000
            when pg_catalog.cardinality(j.let_in || mine.ids) < j.room then j.now + 250000
            when coalesce(j.turns <= j.room, false) then greatest(
                j.now + case when mine.ids = '{}' and j.let_in <> '{}' then $3::bigint else $3::bigint * 2 / 5 end + 1000,
                j.used + ((j.turns + 1) * j.weight - j.burst) * j.period / j.starts - $3::bigint
            )
            else j.now + 5000000
        end
    from judged j
    join found f on f.bucket = j.bucket
    cross join lateral (
        select array(select c.id from chosen c where c.bucket = j.bucket) as ids
    ) as mine
    where b.bucket = any (array(select j.bucket from judged j)) and b.bucket || '' = j.bucket
)
-- 6. The groups of the rows that were let in, the number of buckets that were looked at, the time,
--    and the microseconds until another one is due.
select pg_catalog.array_agg(g.queue) as queues, pg_catalog.array_agg(g.fsm) as fsms,
       pg_catalog.array_agg(g.fsm_version) as versions, pg_catalog.array_agg(g.priority) as priorities,
       (select pg_catalog.count(*) from judged) as looked,
       (select c.now from clock c) as now,
       (
           select b.wakes_at - (select c.now from clock c)
           from gen_durable.limit_buckets b
           where b.wakes_at > 0
           order by b.wakes_at
           limit 1
       ) as next
from (select distinct f.queue, f.fsm, f.fsm_version, f.priority from freed f) as g
