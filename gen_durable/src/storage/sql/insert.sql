-- Inserts instances. One whose unique key is taken is left out.
--
-- Entries are inserted in the order of their unique keys: two batches that share keys take them in
-- one order, and so cannot wait for each other in a circle.
--
-- The planner takes what `unnest` gives for ten rows, and would join the entries with what was inserted
-- row by row with row, in quadratic time. `generate_subscripts` is taken for a thousand and has just
-- as many: the join is by hash.
--
-- $13 is how long the statement waits for somebody's transaction that is inserting one of the unique keys;
-- if it is null, for as long as the transaction does.
with lock_timeout_set as materialized (
    select pg_catalog.set_config('lock_timeout', $13::text, true) from (select) as one
    where $13::text is not null
),
entries as materialized (
    select pg_catalog.nextval('gen_durable.instances_id_seq') as id, e.*
    from rows from (
        unnest(
            $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::smallint[],
            $7::bigint[], $8::bigint[], $9::text[], $10::boolean[], $11::text[],
            $12::text[]
        ),
        pg_catalog.generate_subscripts($1::text[], 1)
    ) as e (
        fsm, fsm_version, step, state, queue, priority,
        delay, scheduled_at, partition_key, blocked, unique_key, unique_scope, place
    )
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
),
inserted as (
    insert into gen_durable.instances (
        id, fsm, fsm_version, step, state, queue, priority, eligible_at,
        partition_key, blocked, unique_key, unique_scope
    )
    select e.id, e.fsm, e.fsm_version, e.step, e.state::json, e.queue, e.priority,
           case
               when e.scheduled_at is not null
               then 'epoch'::timestamptz + e.scheduled_at * interval '1 microsecond'
               else gen_durable.now() + e.delay * interval '1 microsecond'
           end,
           e.partition_key, e.blocked, e.unique_key, pg_catalog.string_to_array(e.unique_scope, ',')
    from entries e
    order by e.fsm, e.unique_key, e.place
    on conflict (fsm, unique_guard) where unique_guard is not null do nothing
    returning id
)
-- One row of arrays, in the order of the parameters: a null for what was left out.
select pg_catalog.array_agg(i.id order by e.place) as ids
from entries e
left join inserted i on i.id = e.id
