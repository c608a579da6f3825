-- Inserts rows into `gen_durable.instances` if some of them have unique keys. Callers' inserts and
-- outcomes that insert run it.
--
-- Invariant: an instance is left out only if its unique key is taken.
--
-- $1 text[]:     the machines
-- $2 int[]:      their versions
-- $3 text[]:     the steps
-- $4 text[]:     the states, as JSON
-- $5 text[]:     the queues
-- $6 smallint[]: the priorities
-- $7 bigint[]:   the delays from now, in microseconds
-- $8 bigint[]:   the times from which they may run, in microseconds since 1970; null where the
--                delay counts
-- $9 text[]:     the partition keys, or null
-- $10 boolean[]: true for a row that is kept out of the claim's index, as it waits behind another
--                row of its key
-- $11 text[]:    the unique keys, or null
-- $12 text[]:    the statuses in which each holds its unique key, separated by commas, or null
-- $13 text:      how long to wait for a transaction that is inserting one of the unique keys; null
--                leaves the transaction's own timeout
-- $14 bigint[]:  the instances to which they report their ends, or null
-- $15 text[]:    their trace contexts, or null; null if no row has one
with lock_timeout_set as materialized (
    -- 1. The lock timeout, until the transaction ends. Its count is read in `entries` (`>= 0` is
    --    always true), so it is set before the insert waits.
    select pg_catalog.set_config('lock_timeout', $13::text, true) from (select) as one
    where $13::text is not null
),
entries as materialized (
    -- 2. The entries, each with a new id. From `unnest` alone the planner expects ten rows. It
    --    would then join the entries with the inserted rows by comparing each with each, in
    --    quadratic time. From `generate_subscripts`, which gives just as many rows, it expects a
    --    thousand, and joins by hash.
    select pg_catalog.nextval('gen_durable.instances_id_seq') as id, e.*
    from rows from (
        unnest(
            $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::smallint[],
            $7::bigint[], $8::bigint[], $9::text[], $10::boolean[], $11::text[],
            $12::text[], $14::bigint[], $15::text[]
        ),
        pg_catalog.generate_subscripts($1::text[], 1)
    ) as e (
        fsm, fsm_version, step, state, queue, priority,
        delay, scheduled_at, partition_key, blocked, unique_key, unique_scope, report_to,
        trace_context, place
    )
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
),
inserted as (
    -- 3. The rows, in the order of their unique keys: two batches that share keys take them in one
    --    order, and cannot wait for each other in a circle.
    insert into gen_durable.instances (
        id, fsm, fsm_version, step, state, queue, priority, eligible_at,
        partition_key, blocked_by, unique_key, unique_scope, report_to, trace_context
    )
    select e.id, e.fsm, e.fsm_version, e.step, e.state::json, e.queue, e.priority,
           case
               when e.scheduled_at is not null
               then 'epoch'::timestamptz + e.scheduled_at * interval '1 microsecond'
               else gen_durable.now() + e.delay * interval '1 microsecond'
           end,
           e.partition_key, e.blocked::int, e.unique_key, pg_catalog.string_to_array(e.unique_scope, ','),
           e.report_to, e.trace_context
    from entries e
    order by e.fsm, e.unique_key, e.place
    on conflict (fsm, unique_guard) where unique_guard is not null do nothing
    returning id
)
-- 4. One row of arrays, in the order of the parameters, with a null for what was left out.
select pg_catalog.array_agg(i.id order by e.place) as ids
from entries e
left join inserted i on i.id = e.id
