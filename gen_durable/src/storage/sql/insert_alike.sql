-- Inserts instances that may run at once, have no keys, and differ in their states alone. It does
-- what insert_plain.sql does, without arrays of the values that all rows share, which are an eighth
-- of its cost.
--
-- Invariant: all rows are inserted, or the statement fails.
--
-- $1 text:     the machine
-- $2 int:      its version
-- $3 text:     the step
-- $4 text[]:   the states, as JSON
-- $5 text:     the queue
-- $6 smallint: the priority
-- $7 bigint:   the instance to which they report their ends, or null
-- $8 text:     their trace context, or null
with inserted as (
    insert into gen_durable.instances (
        fsm, fsm_version, step, state, queue, priority, report_to, trace_context
    )
    select $1::text, $2::int, $3::text, e.state::json, $5::text, $6::smallint, $7::bigint,
           $8::text
    from pg_catalog.unnest($4::text[]) with ordinality as e (state, place)
    -- The ids grow in the order of the parameters, as in insert_plain.sql.
    order by e.place
    returning id
)
select pg_catalog.array_agg(i.id order by i.id) as ids
from inserted i
