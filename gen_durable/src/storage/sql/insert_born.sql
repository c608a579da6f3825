-- Inserts instances that may run at once, have no keys, and differ in their states alone, and
-- claims the first of them for the worker of the process that inserts them. It does what
-- insert_claimed.sql does, without arrays of the values that all rows share, as insert_alike.sql
-- does what insert_plain.sql does.
--
-- Invariant: all rows are inserted, or the statement fails. Rows are claimed only if the worker's
-- lease runs and no row of the same queue waits that the worker could claim.
--
-- $1 text:      the machine
-- $2 int:       its version
-- $3 text:      the step
-- $4 text[]:    the states, as JSON
-- $5 text:      the queue
-- $6 smallint:  the priority
-- $7 bigint:    the instance to which they report their ends, or null
-- $8 bigint:    the worker
-- $9 bigint:    the number of rows to claim
-- $10 text[]:   the machines that the worker runs
-- $11 int[]:    their versions
-- $12 text:     the trace context of the rows, or null
with recursive began as materialized (
    -- 1. The time at which the look for waiting rows begins. The transaction may be older.
    select gen_durable.clock() as at
),
groups (fsm, fsm_version, priority) as (
    -- 2. The groups of the queue that have rows in the claim's index, as in insert_claimed.sql.
    select k.fsm, k.fsm_version, -32769
    from began b
    cross join unnest((select $10::text[]), (select $11::int[])) as k (fsm, fsm_version)
    union all
    select g.fsm, g.fsm_version, head.priority
    from groups g
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = $5::text and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority > g.priority
          and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
),
waiting as materialized (
    -- 3. True for each group in which a due row waits. The new rows must not be claimed before it.
    --    A subquery with a limit stands for "exists", as in insert_claimed.sql.
    select true as any
    from unnest(
        array(select fsm from groups), array(select fsm_version from groups),
        array(select priority from groups)
    ) as g (fsm, fsm_version, priority)
    where (
        select true
        from gen_durable.instances i
        where i.queue = $5::text and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority = g.priority
          and i.status = 'runnable' and i.blocked_by = 0 and i.eligible_at <= gen_durable.now()
        order by i.eligible_at, i.id
        limit 1
    ) is not null
),
decision as materialized (
    -- 4. The number of rows that are claimed, and a time after the look for waiting rows.
    select case
               when not exists (select from waiting)
                and exists (
                    select from gen_durable.workers w
                    where w.id = $8::bigint and w.lease_expires_at > gen_durable.now()
                )
               then $9::bigint else 0
           end as claims,
           gen_durable.clock() as looked_at
),
inserted as (
    -- 5. The rows. Their ids grow in the order of the parameters, as in insert_plain.sql. The
    --    revision of a claimed row is that of a row after its first claim.
    insert into gen_durable.instances (
        fsm, fsm_version, step, status, state, queue, priority, locked_by, revision, report_to,
        trace_context
    )
    select $1::text, $2::int, $3::text,
           case when e.place <= d.claims then 'executing' else 'runnable' end,
           e.state::json, $5::text, $6::smallint,
           case when e.place <= d.claims then $8::bigint end,
           case when e.place <= d.claims then 1 else 0 end,
           $7::bigint, $12::text
    from decision d
    cross join pg_catalog.unnest($4::text[]) with ordinality as e (state, place)
    order by e.place
    returning id
)
-- 6. One row. `ids` and `claims` count the rows in the order of the parameters. `claimed_at` and
--    `looked` are as in insert_claimed.sql.
select pg_catalog.array_agg(i.id order by i.id) as ids,
       (select d.claims from decision d) as claims,
       (select (extract(epoch from b.at) * 1000000)::bigint from began b) as claimed_at,
       (select (extract(epoch from d.looked_at - b.at) * 1000000)::bigint from decision d, began b) as looked
from inserted i
