-- Inserts rows without partition keys into `gen_durable.instances`, and claims some of them for the
-- worker of the process that inserts them. It does for these what insert.sql and then claim.sql do,
-- in one commit. An engine's inserts run it if the last claim of a queue left nothing behind and
-- the queue has free slots.
--
-- Invariant: a row is claimed only if the worker's lease runs and no row of the same queue waits
-- that the worker could claim. Otherwise the row is runnable, as after insert.sql. An instance is
-- left out only if its unique key is taken.
--
-- $1 text[]:     the machines
-- $2 int[]:      their versions
-- $3 text[]:     the steps
-- $4 text[]:     the states, as JSON
-- $5 text[]:     the queues
-- $6 smallint[]: the priorities
-- $7 text[]:     the unique keys, or null
-- $8 text[]:     the statuses in which each holds its unique key, separated by commas, or null
-- $9 boolean[]:  true for a row to claim; `executing` is one of its statuses if it has a unique key
-- $10 text:      how long to wait for a transaction that is inserting one of the unique keys
-- $11 bigint:    the worker
-- $12 text[]:    the queue; $12 to $14 are a list of each queue of $9 with each machine and version
--                that the worker runs
-- $13 text[]:    the machine
-- $14 int[]:     its version
-- $15 bigint[]:  the instances to which they report their ends, or null
-- $16 text[]:    their trace contexts, or null; null if no row has one
with recursive lock_timeout_set as materialized (
    -- 1. The lock timeout, as in insert.sql.
    select pg_catalog.set_config('lock_timeout', $10::text, true) from (select) as one
    where $10::text is not null
),
began as materialized (
    -- 2. The time at which the look for waiting rows begins. The transaction may be older.
    select gen_durable.clock() as at
),
groups (queue, fsm, fsm_version, priority) as (
    -- 3. The groups that have rows in the claim's index: queue, machine, version and priority. Each
    --    is found by one descent of the index, as in claim.sql.
    select k.queue, k.fsm, k.fsm_version, -32769
    from began b
    cross join unnest((select $12::text[]), (select $13::text[]), (select $14::int[]))
        as k (queue, fsm, fsm_version)
    union all
    select g.queue, g.fsm, g.fsm_version, head.priority
    from groups g
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority > g.priority
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
),
waiting as materialized (
    -- 4. The queues in which a due row waits. The new rows must not be claimed before it. A
    --    subquery with a limit stands for "exists", which may be planned as a scan of all runnable
    --    rows.
    select g.queue
    from unnest(
        array(select queue from groups), array(select fsm from groups),
        array(select fsm_version from groups), array(select priority from groups)
    ) as g (queue, fsm, fsm_version, priority)
    where (
        select true
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority = g.priority
          and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
        order by i.eligible_at, i.id
        limit 1
    ) is not null
),
entries as materialized (
    -- 5. The entries, each with a new id, as in insert.sql. `claimed` is true if the row is born
    --    claimed. `looked_at` is a time after the look for waiting rows. The count of
    --    `lock_timeout_set` is read (`>= 0` is always true), so the lock timeout is set first.
    select pg_catalog.nextval('gen_durable.instances_id_seq') as id,
           e.fsm, e.fsm_version, e.step, e.state, e.queue, e.priority,
           e.unique_key, e.unique_scope, e.report_to, e.trace_context, e.place,
           e.claim and e.queue <> all (array(select w.queue from waiting w))
           and exists (
               select from gen_durable.workers w
               where w.id = $11 and w.lease_expires_at > gen_durable.now()
           ) as claimed,
           gen_durable.clock() as looked_at
    from rows from (
        unnest(
            $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::text[],
            $8::text[], $9::boolean[], $15::bigint[], $16::text[]
        ),
        pg_catalog.generate_subscripts($1::text[], 1)
    ) as e (
        fsm, fsm_version, step, state, queue, priority, unique_key, unique_scope, claim, report_to,
        trace_context, place
    )
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
),
inserted as (
    -- 6. The rows, in the order of their unique keys: two transactions with the same keys cannot
    --    wait for each other in a circle. The revision of a claimed row is that of a row after its
    --    first claim.
    insert into gen_durable.instances (
        id, fsm, fsm_version, step, status, state, queue, priority, locked_by, revision,
        unique_key, unique_scope, report_to, trace_context
    )
    select e.id, e.fsm, e.fsm_version, e.step,
           case when e.claimed then 'executing' else 'runnable' end,
           e.state::json, e.queue, e.priority,
           case when e.claimed then $11::bigint end,
           case when e.claimed then 1 else 0 end,
           e.unique_key, pg_catalog.string_to_array(e.unique_scope, ','), e.report_to,
           e.trace_context
    from entries e
    order by e.fsm, e.unique_key, e.place
    on conflict (fsm, unique_guard) where unique_guard is not null do nothing
    returning id
)
-- 7. One row of arrays, in the order of the parameters. `ids` has a null for an entry that was left
--    out, whatever `claimed` says there. `claimed_at` is the database's time, in microseconds since
--    1970. `looked` is the time that the look for waiting rows took, in microseconds.
select pg_catalog.array_agg(i.id order by e.place) as ids,
       pg_catalog.array_agg(e.claimed order by e.place) as claimed,
       (select (extract(epoch from b.at) * 1000000)::bigint from began b) as claimed_at,
       (extract(epoch from pg_catalog.max(e.looked_at) - (select b.at from began b)) * 1000000)::bigint as looked
from entries e
left join inserted i on i.id = e.id
