-- Inserts instances without a unique key. It does what insert.sql does, without its work for unique
-- keys, which is a third of its cost.
--
-- Invariant: all rows are inserted, or the statement fails.
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
-- $10 boolean[]: true for a row that is kept out of the claim's index, as in insert.sql
-- $11 bigint[]:  the instances to which they report their ends, or null
-- $12 text[]:    their trace contexts, or null; null if no row has one
with inserted as (
    insert into gen_durable.instances (
        fsm, fsm_version, step, state, queue, priority, eligible_at, partition_key, blocked_by,
        report_to, trace_context
    )
    select e.fsm, e.fsm_version, e.step, e.state::json, e.queue, e.priority,
           case
               when e.scheduled_at is not null
               then 'epoch'::timestamptz + e.scheduled_at * interval '1 microsecond'
               else gen_durable.now() + e.delay * interval '1 microsecond'
           end,
           e.partition_key, e.blocked::int, e.report_to, e.trace_context
    from rows from (
        unnest(
            $1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::smallint[],
            $7::bigint[], $8::bigint[], $9::text[], $10::boolean[], $11::bigint[], $12::text[]
        )
    ) with ordinality as e (
        fsm, fsm_version, step, state, queue, priority,
        delay, scheduled_at, partition_key, blocked, report_to, trace_context, place
    )
    -- Ids are drawn as rows are inserted, after this sort. The ids therefore grow in the order of
    -- the parameters, in whichever order the rows are returned.
    order by e.place
    returning id
)
-- One row of arrays, in the order of the parameters.
select pg_catalog.array_agg(i.id order by i.id) as ids
from inserted i
