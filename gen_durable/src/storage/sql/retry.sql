-- Returns a failed or cancelled instance to its queue, withdraws the report of its end, and writes
-- that into the audit. Calls of operators run it, after lock_instances.sql has locked the row and
-- the receiver of its report.
--
-- Invariant: of the two ends, the receiver hears one. The report of the first is withdrawn only if
-- no step can have seen it: it is in the inbox of a receiver that does not run. Otherwise the next
-- end sends none. The inbox and the deduplication keys stay.
--
-- $1 bigint:  the instance
-- $2 text:    the machine that it must be of; null for any
-- $3 text:    the name of the operator; null for the session's role
-- $4 text:    the reason, or null
-- $5 text:    the step to go to; null for the one at which the instance stands
-- $6 text:    the new state, as JSON; null keeps the state
-- $7 int:     the version of the step and the state; null if they are checked against nothing
-- $8 boolean: true to forget the deduplication keys that it has accepted
-- $9 bigint:  the receiver that is locked, or null
with locked as materialized (
    -- 1. The row.
    select i.*
    from gen_durable.instances i
    where i.id = $1::bigint
    for no key update
),
receiver as materialized (
    -- 2. The receiver of its reports.
    select r.id, r.status, r.awaits
    from gen_durable.instances r
    where r.id = $9::bigint
    for no key update
),
taken as materialized (
    -- 3. The instance that holds its unique key now.
    select h.id
    from locked l
    join gen_durable.instances h on h.fsm = l.fsm and h.unique_guard = l.unique_key
    where h.id <> l.id and 'runnable' = any (l.unique_scope)
),
deeds as materialized (
    -- 4. The deed:
    --    foreign:  it is of another machine
    --    live:     it has not ended
    --    done:     it is done
    --    moved:    it reports to another instance than the locked one
    --    taken:    another instance holds its unique key
    --    version:  the step or the state is of another version
    --    step:     its registered version has no such step
    --    retried:  it is returned to its queue
    select l.id, l.fsm, l.fsm_version, l.status, l.report_to, case
        when l.fsm <> $2::text then 'foreign'
        when l.status in ('runnable', 'executing', 'awaiting_signal') then 'live'
        when l.status = 'done' then 'done'
        when l.report_to is distinct from $9::bigint then 'moved'
        when exists (select from taken) then 'taken'
        when $7::int <> l.fsm_version and ($5::text is null or $6::text is null) then 'version'
        when $5::text is not null and $7::int is null and not coalesce((
            select $5::text = any (m.steps)
            from gen_durable.machines m
            where m.fsm = l.fsm and m.fsm_version = l.fsm_version
        ), false) then 'step'
        else 'retried'
    end as deed
    from locked l
),
withdrawn as (
    -- 5. The report in the receiver's inbox. One that is owed is withdrawn with the bit below. A
    --    receiver that has failed keeps its inbox, and may be retried with it.
    delete from gen_durable.signals s
    where s.target_id = (select r.id from receiver r where r.status not in ('executing', 'done'))
      and s.name = (select 'ended' || '(' || d.fsm || ')' from deeds d where d.deed = 'retried')
      and s.payload ->> 'id' = $1::bigint::text
      and s.payload ->> 'status' in ('failed', 'cancelled')
    returning s.target_id, s.name
),
expects as (
    -- 6. A receiver that is parked until several have come waits for one more again.
    update gen_durable.instances r
    set awaits_more = r.awaits_more + 1,
        updated_at = gen_durable.now()
    where r.id = (
        select t.id
        from receiver t
        join withdrawn w on w.target_id = t.id and w.name = any (t.awaits)
        where t.status = 'awaiting_signal'
    )
),
retried as (
    -- 7. The row, at the front of its life again.
    update gen_durable.instances i
    set status = 'runnable',
        fsm_version = coalesce($7::int, i.fsm_version),
        step = coalesce($5::text, i.step),
        state = coalesce($6::text::json, i.state),
        result = null,
        attempt = 0,
        failures = 0,
        crashes = 0,
        awaits = null,
        eligible_at = gen_durable.now(),
        blocked_by = 0,
        report_to = case
            when coalesce(i.owes, 0) & 1 = 1
              or exists (select from withdrawn)
              or not exists (select from receiver r where r.status in ('runnable', 'executing', 'awaiting_signal'))
            then i.report_to
        end,
        owes = nullif(i.owes & 2, 0),
        cancelled_at = null,
        finished_at = null,
        revision = i.revision % 4611686018427387904 + 1,
        unique_released = case when 'runnable' <> all (i.unique_scope) then true end,
        updated_at = gen_durable.now()
    where i.id = (select d.id from deeds d where d.deed = 'retried')
    returning i.id, i.queue, i.report_to
),
forgotten as (
    -- 8. The deduplication keys.
    delete from gen_durable.signal_keys k
    where $8::boolean and k.target_id = (select r.id from retried r)
),
noted as (
    -- 9. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'retry', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'retried'
)
-- 10. One row, or none if there is no such instance.
--     queue:       the row's queue
--     owes:        false: nothing is left to an engine
--     holder:      the instance that holds the unique key
--     heard:       true if the receiver has heard of the end before, and hears of the next one not
--     steps:       the steps of the registered version
select d.id, d.fsm, d.deed, d.status, null::text as reason, r.queue, false as owes,
       (select t.id from taken t limit 1) as holder,
       d.deed = 'retried' and d.report_to is not null and r.report_to is null as heard,
       d.fsm_version,
       (
           select m.steps
           from gen_durable.machines m
           where m.fsm = d.fsm and m.fsm_version = d.fsm_version
       ) as steps,
       (select l.unique_key from locked l) as unique_key
from deeds d
left join retried r on r.id = d.id
