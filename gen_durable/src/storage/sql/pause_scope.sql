-- Pauses a queue, a machine, or a step of a machine, and writes that into the audit. Calls of
-- operators run it.
--
-- Invariant: it changes no instance. Engines hear of it, and hold back the rows of the scope. A
-- scope that is paused already gets the new end, operator and reason.
--
-- $1 text:   the queue; null if a machine is paused
-- $2 text:   the machine, or null
-- $3 text:   its step; null for all of its steps
-- $4 bigint: the time at which the pause ends, in microseconds since 1970; null for none
-- $5 text:   the name of the operator; null for the session's role
-- $6 text:   the reason, or null
-- $7 text:   how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $7::text, true) from (select) as one
    where $7::text is not null
),
deed as materialized (
    -- 2. The deed:
    --    past:    the end lies in the past
    --    queue:   no engine has served the queue
    --    machine: no engine has registered the machine
    --    step:    no registered version of the machine has the step
    --    paused:  the scope is paused
    select p.until, case
        when p.until <= gen_durable.now() then 'past'
        when $1::text is not null and not exists (select from gen_durable.queues q where q.name = $1::text) then 'queue'
        when $2::text is not null and not exists (select from gen_durable.machines m where m.fsm = $2::text)
        then 'machine'
        when $3::text is not null and not exists (
            select from gen_durable.machines m where m.fsm = $2::text and $3::text = any (m.steps)
        ) then 'step'
        else 'paused'
    end as deed
    from (select timestamptz 'epoch' + $4::bigint * interval '1 microsecond' as until) as p
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
),
paused as (
    insert into gen_durable.pauses as p (queue, fsm, step, until, actor, reason)
    select $1::text, $2::text, $3::text, d.until, coalesce($5::text, session_user), $6::text
    from deed d
    where d.deed = 'paused'
    on conflict (
        (coalesce(queue, '')), (coalesce(fsm, '')), (coalesce(step, '')), (coalesce(instance_id, 0))
    ) do update
    set until = excluded.until, actor = excluded.actor, reason = excluded.reason, paused_at = gen_durable.now()
),
noted as (
    -- 3. The audit.
    insert into gen_durable.audit (actor, action, reason, fsm, step, queue)
    select coalesce($5::text, session_user), 'pause', $6::text, $2::text, $3::text, $1::text
    from deed d
    where d.deed = 'paused'
)
-- 4. The deed, and the names that are registered in its place.
select d.deed, case d.deed
    when 'queue' then array(select q.name from gen_durable.queues q order by q.name limit 100)
    when 'machine' then array(select distinct m.fsm from gen_durable.machines m order by m.fsm limit 100)
    when 'step' then array(
        select distinct s.step
        from gen_durable.machines m
        cross join lateral pg_catalog.unnest(m.steps) as s (step)
        where m.fsm = $2::text
        order by s.step
    )
    else '{}'
end as names
from deed d
