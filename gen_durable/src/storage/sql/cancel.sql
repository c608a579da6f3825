-- Cancels or kills instances, and writes what was done into the audit. Calls of operators run it.
--
-- Invariant: a cancel that is acknowledged is in the row, and from then on no outcome of a run that
-- began before it is applied: the revision was raised under the row's lock. The statement takes no
-- advisory lock, and notes in `owes` what it leaves to an engine for that reason.
--
-- $1 bigint[]: the instances
-- $2 text:     the machine that they must be of; null for any
-- $3 text:     the name of the operator; null for the session's role
-- $4 text:     the reason, or null
-- $5 boolean:  true to kill: the instance ends at once, and its machine is not asked
-- $6 text:     how long the statement waits for a lock; null leaves the transaction's own timeout
-- $7 text:     the unique key that they must hold; null for any or none
with lock_timeout_set as materialized (
    -- 1. The lock timeout, set before a lock is waited for, as in deliver.sql.
    select pg_catalog.set_config('lock_timeout', $6::text, true) from (select) as one
    where $6::text is not null
),
locked as materialized (
    -- 2. The rows, locked in the order of their ids. A lock that was waited for shows the row as it
    --    is then.
    select i.id, i.fsm, i.fsm_version, i.status, i.cancelled_at, i.last_error, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
deeds as materialized (
    -- 3. The deed for each:
    --    ended:     it has ended before
    --    before:    it was cancelled before, and the machine answers that
    --    moved:     it has given the key back by which it was found
    --    foreign:   it is of another machine
    --    asked:     an engine answers the cancel: the one that runs the row, or, if nothing is
    --               registered for the row's version, the next one that knows the version
    --    goes:      it goes to the step with which its machine answers a cancel
    --    cancelled: it ends
    select l.*, m.on_cancel, case
        when $7::text is not null and l.unique_guard is distinct from $7::text then 'moved'
        when l.fsm <> $2::text then 'foreign'
        when l.status not in ('runnable', 'executing', 'awaiting_signal') then 'ended'
        when $5::boolean then 'cancelled'
        when l.cancelled_at is not null then 'before'
        when l.status = 'executing' or m.fsm is null then 'asked'
        when m.on_cancel is not null then 'goes'
        else 'cancelled'
    end as deed
    from locked l
    left join gen_durable.machines m on m.fsm = l.fsm and m.fsm_version = l.fsm_version
),
changed as (
    -- 4. The rows, changed. An executing row stays so, and keeps its partition key, until its run
    --    has been dropped. Any other row that an engine is to answer leaves the claim's index
    --    (`blocked_by`), so that no step runs before. A row that ends is in no index of rows that
    --    wait.
    update gen_durable.instances i
    set status = case
            when d.deed = 'cancelled' then 'cancelled'
            when i.status = 'executing' then 'executing'
            else 'runnable'
        end,
        step = case when d.deed = 'goes' then d.on_cancel else i.step end,
        attempt = case when d.deed = 'goes' then 0 else i.attempt end,
        failures = case when d.deed = 'goes' then 0 else i.failures end,
        crashes = case when d.deed = 'goes' then 0 else i.crashes end,
        awaits = case when i.status = 'executing' and d.deed <> 'cancelled' then i.awaits end,
        awaits_more = null,
        wake_at = null,
        -- A delayed or parked row is due now, and one that was due keeps its place.
        eligible_at = case
            when i.status = 'awaiting_signal' then gen_durable.now()
            else least(i.eligible_at, gen_durable.now())
        end,
        blocked_by = case
            -- A pause of its own outlives the end, and a retry. The pause and the limit of a step
            -- do not.
            when d.deed = 'cancelled' then i.blocked_by & 8
            when d.deed = 'goes' then i.blocked_by & ~20
            when d.deed = 'asked' and i.status <> 'executing' then i.blocked_by | 2
            else i.blocked_by
        end,
        paused_by = case
            when d.deed in ('cancelled', 'goes') then case when i.blocked_by & 8 = 8 then 0 end
            else i.paused_by
        end,
        owes = case
            when d.deed = 'asked' then coalesce(i.owes, 0) | 4
            when d.deed = 'cancelled' then nullif(
                case when i.report_to is not null then 1 else 0 end
                | case when i.partition_key is not null then 2 else 0 end, 0
            )
            else i.owes
        end,
        cancelled_at = coalesce(i.cancelled_at, gen_durable.now()),
        last_error = case
            when d.deed = 'cancelled'
            then coalesce($4::text, case when $5::boolean then 'killed' else 'cancelled' end)
            else i.last_error
        end,
        locked_by = case when d.deed = 'cancelled' then null else i.locked_by end,
        finished_at = case when d.deed = 'cancelled' then gen_durable.now() end,
        revision = i.revision % 4611686018427387904 + 1,
        unique_released = i.unique_released or case
            when d.deed = 'cancelled' then 'cancelled'
            when i.status = 'executing' then 'executing'
            else 'runnable'
        end <> all (i.unique_scope),
        updated_at = gen_durable.now()
    from deeds d
    where i.id = any (array(select d.id from deeds d where d.deed in ('asked', 'goes', 'cancelled')))
      and i.id + 0 = d.id
    returning i.id, i.queue, i.owes
),
noted as (
    -- 5. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), case when $5::boolean then 'kill' else 'cancel' end,
           $4::text, d.id, d.fsm
    from deeds d
    where d.deed in ('asked', 'goes', 'cancelled')
    order by d.id
)
-- 6. One row for each instance that exists.
--    status, reason: those from before. `reason` says how an ended instance has ended
--    queue:          the row's queue, if an engine may claim it now
--    owes:           true if an engine has something to do for the row
select d.id, d.fsm, d.deed, d.status,
       case when d.deed = 'ended' and d.status <> 'done' then d.last_error end as reason,
       case when d.deed = 'goes' then c.queue end as queue,
       c.owes is not null as owes
from deeds d
left join changed c on c.id = d.id
order by d.id
