-- Deletes an ended instance with its inbox, and writes that into the audit. Calls of operators run
-- it.
--
-- Invariant: only an ended instance is deleted, and none for which an engine has still something to
-- do: its end is to be reported, say.
--
-- $1 bigint: the instance
-- $2 text:   the machine that it must be of; null for any
-- $3 text:   the name of the operator; null for the session's role
-- $4 text:   the reason, or null
-- $5 text:   how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $5::text, true) from (select) as one
    where $5::text is not null
),
locked as materialized (
    -- 2. The row.
    select i.id, i.fsm, i.status, i.owes
    from gen_durable.instances i
    where i.id = $1::bigint and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    for update
),
deeds as materialized (
    -- 3. The deed.
    select l.*, case
        when l.fsm <> $2::text then 'foreign'
        when l.status in ('runnable', 'executing', 'awaiting_signal') then 'live'
        when l.owes is not null then 'owes'
        else 'deleted'
    end as deed
    from locked l
),
deleted as (
    delete from gen_durable.instances i
    where i.id = (select d.id from deeds d where d.deed = 'deleted')
),
noted as (
    -- 4. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'delete', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'deleted'
)
select d.id, d.fsm, d.deed, d.status, null::text as reason, null::text as queue, false as owes
from deeds d
