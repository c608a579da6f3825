-- Applies the outcomes of steps: writes each into its row, and deletes the signals that it
-- consumed. The flusher runs it.
--
-- Invariant: an outcome is applied only if its worker still owns the row: same worker, still
-- executing, same revision. The statement waits for no lock of a row, so it is in no deadlock.
--
-- $1 bigint[]:   the instances, each once
-- $2 bigint[]:   their workers
-- $3 bigint[]:   the revisions that the workers hold
-- $4 text[]:     the new statuses
-- $5 text[]:     the next steps; null keeps the step
-- $6 text[]:     the new states, as JSON; null keeps the state
-- $7 text[]:     the results, as JSON, or null
-- $8 text[]:     the errors to record; null keeps the last one
-- $9 int[]:      the attempts; null for a row that is given back without a run
-- $10 bigint[]:  the microseconds until each may run; null keeps its time
-- $11 text[]:    the names of the signals that each awaits, separated by the character 31; empty
--                for a park that timed out; null for none
-- $12 bigint[]:  the microseconds until its park times out, or null
-- $13 boolean[]: true if the machine declares signals, and so has an inbox
-- $14 bigint[]:  the consumed signals; $17 names the instance of each
-- $15 int[]:     the versions of upgraded instances; null for all others
-- $16 int[]:     the failures in a row; null keeps them
-- $17 bigint[]:  the instances of the consumed signals
-- $18 bigint[]:  the last signal of each inbox that the worker knows of
with outcomes as materialized (
    -- 1. The outcomes. From `unnest` alone the planner expects ten rows, and would join them in
    --    quadratic time. From `generate_subscripts`, which gives just as many rows, it expects a
    --    thousand.
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
    -- 2. The outcomes whose rows their workers own, locked. A row that another transaction has
    --    locked (one that signals it, say) is left out: its neighbours must not wait for it.
    --
    --    The rows are looked up by primary key alone, once, in its order: `status || ''` fits no
    --    index. Statistics taken while nothing was executing would make another index look free.
    --    The `case` hides from the planner how few rows its comparison leaves.
    --
    --    A failure ends an instance that was cancelled as cancelled.
    select o.*, l.place,
           case when o.status = 'failed' and l.cancelled_at is not null then 'cancelled' else o.status end as ends_as
    from outcomes o
    left join (
        select i.id, i.ctid as place, i.revision, i.locked_by, i.cancelled_at
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
    -- 3. The rows, updated. The update goes straight to the place of each locked row. A row that
    --    moved between the snapshot and the lock is not found there, and counts as locked. `+ 0`
    --    hides from the planner that the key could be looked up once more.
    update gen_durable.instances i
    set status = o.ends_as,
        -- The outcome has a version only if the instance was upgraded. Writing the same value again
        -- touches no index.
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
        unique_released = i.unique_released or o.ends_as <> all (i.unique_scope),
        finished_at = case when o.status in ('done', 'failed') then gen_durable.now() end,
        updated_at = gen_durable.now()
    from held o
    where i.ctid = any (array(select h.place from held h)) and i.id + 0 = o.id
    returning i.id, i.status, o.listens, o.known
),
consumed as (
    -- 4. The signals that the applied outcomes consumed, deleted. Each is looked up by itself: a
    --    join could read all signals. In a `case` the list of the committed rows is hashed;
    --    otherwise it could be searched for each signal.
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
-- 5. One row of arrays: the ids of the applied outcomes, and the new signals of rows that go on to
--    a next step. The signals of an instance are committed in the order of their ids, so the new
--    ones come after $18. Inboxes are bounded as in claim.sql.
select pg_catalog.array_agg(row.id) as ids,
       pg_catalog.array_agg(row.id) filter (where row.inbox is not null) as inbox_ids,
       pg_catalog.array_agg(row.inbox) filter (where row.inbox is not null) as inboxes
from (
    select c.id, case when c.status = 'executing' and c.listens then (
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
                where s.target_id = c.id and s.id > c.known
                order by s.id
                limit 101
            ) as s
            window oldest as (order by s.id)
        ) as s
        having pg_catalog.count(*) > 0
    ) end as inbox
    from committed c
    -- Without `offset 0` the planner copies the subquery to each of the three places above, and
    -- reads every inbox three times.
    offset 0
) as row
