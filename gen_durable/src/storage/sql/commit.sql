-- Applies the outcomes of steps, each if its worker still owns the row: same worker, still
-- executing, same revision. Consumed signals ($14, of the instances $17) go with them.
-- The answer is one row of arrays: the ids of what was applied, and of those that go on to a next step
-- the signals that have come since ($18 has the last one that its worker knows of). An inbox's signals are
-- committed in the order of their ids. As in claim.sql, the oldest come, and whether there are more.
--
-- A row that somebody else has locked (a transaction that signals it, say) is left out instead of
-- waited for: its neighbours must not wait, and a commit that never waits is in no deadlock.
--
-- The rows are looked up by primary key alone, once, in its order. `status` is compared in a way that no index
-- serves, as statistics taken while nothing was executing would make another index look free. The
-- update goes straight to where the locked rows are; one that moved between the snapshot and the lock is not
-- found there, and counts as locked.
--
-- The planner knows no sizes here, and joins what it takes for ten rows in quadratic time:
-- `generate_subscripts` is taken for a thousand, `case` hides from it how few rows a comparison leaves, and
-- `+ 0` that the key could be looked up once more.
with outcomes as materialized (
    select *
    from rows from (
        unnest(
            $1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::int[], $10::bigint[], $11::text[], $12::bigint[], $13::boolean[],
            $15::int[], $16::int[], $18::bigint[]
        ),
        pg_catalog.generate_subscripts($1::bigint[], 1)
    ) as o (
        id, locked_by, revision, status, step, state, result,
        error, attempt, delay, awaits, wake, listens, fsm_version, failures, known, nth
    )
),
held as materialized (
    select o.*, l.place
    from outcomes o
    left join (
        select i.id, i.ctid as place, i.revision, i.locked_by
        from gen_durable.instances i
        where i.id = any ($1::bigint[]) and i.status || '' = 'executing'
        for no key update skip locked
    ) as l on l.id = o.id
    where case
        when l.revision = o.revision and l.locked_by = o.locked_by then true
        else false
    end
),
committed as (
    update gen_durable.instances i
    set status = o.status,
        -- Null but for an instance that was upgraded; a value that does not change is no index's concern.
        fsm_version = coalesce(o.fsm_version, i.fsm_version),
        step = coalesce(o.step, i.step),
        state = coalesce(o.state::json, i.state),
        result = o.result::json,
        last_error = coalesce(o.error, i.last_error),
        attempt = coalesce(o.attempt, i.attempt),
        failures = coalesce(o.failures, i.failures),
        -- A row that is given back without a run (`attempt` is null) keeps what it carried into the
        -- claim. An outcome ends a series of crashes.
        crashes = case when o.attempt is null then i.crashes else 0 end,
        revision = i.revision + 1,
        locked_by = case when o.status = 'executing' then i.locked_by end,
        awaits = case
            when o.attempt is null then i.awaits
            else pg_catalog.string_to_array(o.awaits, pg_catalog.chr(31))
        end,
        eligible_at = coalesce(gen_durable.now() + o.delay * interval '1 microsecond', i.eligible_at),
        wake_at = gen_durable.now() + o.wake * interval '1 microsecond',
        unique_scope = case when o.status = any (i.unique_scope) then i.unique_scope end,
        finished_at = case when o.status in ('done', 'failed') then gen_durable.now() end,
        updated_at = gen_durable.now()
    from held o
    where i.ctid = any (array(select h.place from held h)) and i.id + 0 = o.id
    returning i.id, i.status, o.listens, o.known
),
consumed as (
    -- Each is looked up by itself: a join could read all signals. In a `case` the list of what was
    -- committed is hashed; else it could be searched for each signal.
    delete from gen_durable.signals s
    where s.ctid = any (array(
        select signal.place
        from unnest($17::bigint[], $14::bigint[]) as taken (target_id, id)
        cross join lateral (
            select s.ctid as place
            from gen_durable.signals s
            where s.target_id = taken.target_id and s.id = taken.id
            offset 0
        ) as signal
        where case
            when taken.target_id in (select c.id from committed c) then true
            else false
        end
    ))
)
select pg_catalog.array_agg(row.id) as ids,
       pg_catalog.array_agg(row.id) filter (where row.inbox is not null) as inbox_ids,
       pg_catalog.array_agg(row.inbox) filter (where row.inbox is not null) as inboxes
from (
    select c.id, case when c.status = 'executing' and c.listens then (
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
                where s.target_id = c.id and s.id > c.known
                order by s.id
                limit 101
            ) as s
            window oldest as (order by s.id)
        ) as s
        having pg_catalog.count(*) > 0
    ) end as inbox
    from committed c
    -- Else the planner copies the subquery to each of the three places above: every inbox read thrice.
    offset 0
) as row
