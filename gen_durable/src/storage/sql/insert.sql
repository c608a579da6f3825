-- Inserts instances. One whose unique key is taken is left out.
--
-- Entries are inserted in the order of their unique keys: two batches that share keys take them in
-- one order, and so cannot wait for each other in a circle.
--
-- The planner takes what `unnest` gives for ten rows, and would join the entries with what was inserted
-- row by row with row, in quadratic time. `generate_subscripts` is taken for a thousand and has just
-- as many: the join is by hash.
with entries as materialized (
    select nextval('gen_durable.instances_id_seq') as id, e.*
    from rows from (
        unnest($1::text[]), unnest($2::int[]), unnest($3::text[]), unnest($4::text[]),
        unnest($5::text[]), unnest($6::smallint[]), unnest($7::bigint[]), unnest($8::bigint[]),
        unnest($9::text[]), unnest($10::boolean[]), unnest($11::text[]), unnest($12::text[]),
        generate_subscripts($1::text[], 1)
    ) as e (
        fsm, fsm_version, step, state, queue, priority,
        delay, scheduled_at, partition_key, blocked, unique_key, unique_scope, place
    )
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
               else now() + e.delay * interval '1 microsecond'
           end,
           e.partition_key, e.blocked, e.unique_key, string_to_array(e.unique_scope, ',')
    from entries e
    order by e.fsm, e.unique_key, e.place
    on conflict (fsm, unique_guard) where unique_guard is not null do nothing
    returning id
)
-- One row of arrays, in the order of the parameters: a null for what was left out.
select array_agg(i.id order by e.place) as ids
from entries e
left join inserted i on i.id = e.id
