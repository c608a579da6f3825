-- Records what runs came to. The commit of their outcomes runs it, in their transaction, for the
-- applied outcomes that their machine's history takes.
--
-- Invariant: it fails for no missing partition. Rows of a day without one get the day `-infinity`.
--
-- The times are the clock's, not the transaction's: the transaction of a step begins with the step.
--
-- $1 bigint[]:   the instances
-- $2 text[]:     their machines
-- $3 int[]:      the versions of the steps
-- $4 text[]:     the steps that ran
-- $5 int[]:      the runs of the step before this one
-- $6 text[]:     what the runs came to; `failed` stands for how the instance has ended
-- $7 text[]:     the next steps, or null
-- $8 text[]:     the errors, or null
-- $9 bigint[]:   the microseconds since the runs began
-- $10 bigint[]:  the workers
-- $11 boolean[]: true where the state after the outcome is recorded
with clock as materialized (
    -- 1. The time, read once, and the partition of its day.
    select t.at, case
        when exists (
            select
            from pg_catalog.pg_inherits p
            where p.inhparent = 'gen_durable.history'::pg_catalog.regclass
              and not p.inhdetachpending
              and p.inhrelid = pg_catalog.to_regclass(
                  'gen_durable.history_' || pg_catalog.to_char(t.at at time zone 'UTC', 'YYYYMMDD')
              )
        ) then (t.at at time zone 'UTC')::date
        else '-infinity'
    end as day
    from (select gen_durable.clock() as at offset 0) as t
)
-- 2. The rows. The instance is looked up only where something of it is recorded.
insert into gen_durable.history (
    day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state, started_at,
    ended_at, worker
)
select c.day, r.instance_id, r.fsm, r.fsm_version, r.step, r.attempt,
       case when r.outcome = 'failed' then i.status else r.outcome end,
       r.next_step, r.error, case when r.has_state then i.state end,
       c.at - r.elapsed * interval '1 microsecond', c.at, r.worker
from clock c
cross join unnest(
    $1::bigint[], $2::text[], $3::int[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[],
    $9::bigint[], $10::bigint[], $11::boolean[]
) as r (
    instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, elapsed, worker,
    has_state
)
left join lateral (
    select i.status, i.state
    from gen_durable.instances i
    where i.id = r.instance_id and (r.has_state or r.outcome = 'failed')
    offset 0
) as i on true
