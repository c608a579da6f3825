-- Pauses instances, and writes that into the audit. Calls of operators run it.
--
-- Invariant: no claim takes the rows from the commit on, whatever their status is by then. A run
-- that is under way finishes.
--
-- $1 bigint[]: the instances
-- $2 text:     the machine that they must be of; null for any
-- $3 text:     the name of the operator; null for the session's role
-- $4 text:     the reason, or null
-- $5 text:     how long the statement waits for a lock; null leaves the transaction's own timeout
-- $6 text:     the unique key that they must hold; null for any or none
-- $7 bigint:   the time at which the pause ends, in microseconds since 1970; null for none
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $5::text, true) from (select) as one
    where $5::text is not null
),
locked as materialized (
    -- 2. The rows, locked in the order of their ids.
    select i.id, i.fsm, i.status, i.last_error, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
deeds as materialized (
    -- 3. The deed for each. The end of a `past` one has passed, and `moved` has given the key back
    --    by which it was found.
    select l.*, p.until, case
        when $6::text is not null and l.unique_guard is distinct from $6::text then 'moved'
        when l.fsm <> $2::text then 'foreign'
        when l.status not in ('runnable', 'executing', 'awaiting_signal') then 'ended'
        when p.until <= gen_durable.now() then 'past'
        else 'paused'
    end as deed
    from locked l
    cross join (select timestamptz 'epoch' + $7::bigint * interval '1 microsecond' as until) as p
),
changed as (
    update gen_durable.instances i
    set blocked_by = i.blocked_by | 8,
        paused_by = coalesce(i.paused_by, 0)
    where i.id = any (array(select d.id from deeds d where d.deed = 'paused'))
),
paused as (
    insert into gen_durable.pauses as p (instance_id, until, actor, reason)
    select d.id, d.until, coalesce($3::text, session_user), $4::text
    from deeds d
    where d.deed = 'paused'
    order by d.id
    on conflict (
        (coalesce(queue, '')), (coalesce(fsm, '')), (coalesce(step, '')), (coalesce(instance_id, 0))
    ) do update
    set until = excluded.until, actor = excluded.actor, reason = excluded.reason, paused_at = gen_durable.now()
),
noted as (
    -- 4. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'pause', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'paused'
    order by d.id
)
-- 5. One row for each instance that exists.
select d.id, d.fsm, d.deed, d.status,
       case when d.deed = 'ended' and d.status <> 'done' then d.last_error end as reason,
       null::text as queue, false as owes
from deeds d
order by d.id
