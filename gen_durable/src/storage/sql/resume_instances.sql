-- Ends the pauses of instances, and writes that into the audit. Calls of operators run it.
--
-- Invariant: it ends the instance's own pause alone. A pause of its queue, machine or step stays.
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
    select i.id, i.fsm, i.status, i.blocked_by, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
deeds as materialized (
    -- 3. The deed for each. `before` was not paused, and `moved` has given the key back by which it
    --    was found.
    select l.*, case
        when $6::text is not null and l.unique_guard is distinct from $6::text then 'moved'
        when l.fsm <> $2::text then 'foreign'
        when l.blocked_by & 8 = 0 then 'before'
        else 'resumed'
    end as deed
    from locked l
),
changed as (
    update gen_durable.instances i
    set blocked_by = i.blocked_by & ~8,
        paused_by = nullif(i.paused_by, 0)
    where i.id = any (array(select d.id from deeds d where d.deed = 'resumed'))
    returning i.id, i.queue, i.status = 'runnable' and i.blocked_by = 0 as claimable
),
ended as (
    delete from gen_durable.pauses p
    where p.instance_id = any (array(select d.id from deeds d where d.deed = 'resumed'))
),
noted as (
    -- 4. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'resume', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'resumed'
    order by d.id
)
-- 5. One row for each instance that exists. `queue` is its queue, if a claim may find the row.
select d.id, d.fsm, d.deed, d.status, null::text as reason,
       case when c.claimable then c.queue end as queue, false as owes
from deeds d
left join changed c on c.id = d.id
order by d.id
