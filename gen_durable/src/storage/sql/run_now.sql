-- Makes a delayed instance due now, and writes that into the audit. Calls of operators run it.
--
-- Invariant: nothing but the time from which the row may run is changed. Its partition
-- key, a pause or a limit blocks the row as before.
--
-- $1 bigint[]: the instances
-- $2 text:     the machine that they must be of; null for any
-- $3 text:     the name of the operator; null for the session's role
-- $4 text:     the reason, or null
-- $5 text:     how long the statement waits for a lock; null leaves the transaction's own timeout
-- $6 text:     the unique key that they must hold; null for any or none
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $5::text, true) from (select) as one
    where $5::text is not null
),
locked as materialized (
    -- 2. The rows, locked in the order of their ids.
    select i.id, i.fsm, i.status, i.last_error, i.eligible_at, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
deeds as materialized (
    -- 3. The deed for each. `due` is due already, `other` runs or waits for a signal,
    --    and `moved` has given the key back by which it was found.
    select l.*, case
        when $6::text is not null and l.unique_guard is distinct from $6::text then 'moved'
        when l.fsm <> $2::text then 'foreign'
        when l.status not in ('runnable', 'executing', 'awaiting_signal') then 'ended'
        when l.status <> 'runnable' then 'other'
        when l.eligible_at <= gen_durable.now() then 'due'
        else 'hastened'
    end as deed
    from locked l
),
hastened as (
    update gen_durable.instances i
    set eligible_at = gen_durable.now(),
        trace_context = '-' || pg_catalog.ltrim(i.trace_context, '-'),
        updated_at = gen_durable.now()
    where i.id = any (array(select d.id from deeds d where d.deed = 'hastened'))
    returning i.id, i.queue
),
noted as (
    -- 4. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'run_now', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'hastened'
    order by d.id
)
-- 5. One row for each instance that exists. `queue` is its queue, if the row may run now.
select d.id, d.fsm, d.deed, d.status,
       case when d.deed = 'ended' and d.status <> 'done' then d.last_error end as reason,
       h.queue, false as owes
from deeds d
left join hastened h on h.id = d.id
order by d.id
