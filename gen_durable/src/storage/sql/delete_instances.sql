-- Deletes ended instances with their inboxes, and writes that into the audit. Calls of operators
-- run it.
--
-- Invariant: only ended instances are deleted, and none for which an engine has still something to
-- do: its end is to be reported, say.
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
    select i.id, i.fsm, i.status, i.owes, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for update
),
deeds as materialized (
    -- 3. The deed for each. `moved` has given the key back by which it was found.
    select l.*, case
        when $6::text is not null and l.unique_guard is distinct from $6::text then 'moved'
        when l.fsm <> $2::text then 'foreign'
        when l.status in ('runnable', 'executing', 'awaiting_signal') then 'live'
        when l.owes is not null then 'owes'
        else 'deleted'
    end as deed
    from locked l
),
deleted as (
    delete from gen_durable.instances i
    where i.id = any (array(select d.id from deeds d where d.deed = 'deleted'))
),
noted as (
    -- 4. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'delete', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'deleted'
    order by d.id
)
select d.id, d.fsm, d.deed, d.status, null::text as reason, null::text as queue, false as owes
from deeds d
order by d.id
