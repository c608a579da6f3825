-- Records runs that were lost with their workers. The reaper runs it, in the transaction that takes
-- the rows from these workers, and after that.
--
-- Invariant: only machines whose history is off have nothing recorded. One that no engine has
-- registered counts as the default, which records failures.
--
-- $1 bigint[]: the instances
-- $2 bigint[]: the workers that they were taken from; 0 for one that left its row to the reaper
-- $3 bigint[]: the times at which each came to its step, in microseconds since 1970
with clock as materialized (
    -- 1. The time, read once, and the partition of its day: see record_history.sql.
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
-- 2. The rows. The reaper has counted the lost run, and left step and state as they were.
insert into gen_durable.history (
    day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state, started_at,
    ended_at, worker
)
select c.day, i.id, i.fsm, i.fsm_version, i.step, i.attempt - 1,
       case when i.status = 'runnable' then 'lost' else i.status end,
       case when i.status = 'runnable' then i.step end,
       case
           when i.status <> 'runnable' then i.last_error
           when l.worker = 0 then 'the run ended without an outcome'
           else 'the worker was lost'
       end,
       case when m.history = 'states' then i.state end,
       timestamptz 'epoch' + l.since * interval '1 microsecond', c.at, nullif(l.worker, 0)
from clock c
cross join unnest($1::bigint[], $2::bigint[], $3::bigint[]) as l (instance_id, worker, since)
join gen_durable.instances i on i.id = l.instance_id
left join gen_durable.machines m on m.fsm = i.fsm and m.fsm_version = i.fsm_version
where m.history is distinct from 'off'
