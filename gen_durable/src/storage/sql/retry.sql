-- Returns failed or cancelled instances to their queues, withdraws the reports of their ends, and
-- writes that into the audit. Calls of operators run it, after lock_instances.sql has locked the
-- rows and the receivers of their reports.
--
-- Invariant: of the two ends of an instance, the receiver hears one. The report of the first is
-- withdrawn only if no step can have seen it: it is in the inbox of a receiver that does not run.
-- Otherwise the next end sends none. The inbox and the deduplication keys stay.
--
-- $1 bigint[]:  the instances
-- $2 text:      the machine that they must be of; null for any
-- $3 text:      the name of the operator; null for the session's role
-- $4 text:      the reason, or null
-- $5 text:      the step to go to; null for the one at which an instance stands
-- $6 text:      the new state, as JSON; null keeps the state
-- $7 int:       the version of the step and the state; null if they are checked against nothing
-- $8 boolean:   true to forget the deduplication keys that they have accepted
-- $9 bigint[]:  the receivers that are locked
-- $10 text:     the unique key that they must hold; null for any or none
with locked as materialized (
    -- 1. The rows.
    select i.*
    from gen_durable.instances i
    where i.id = any ($1::bigint[])
    order by i.id
    for no key update
),
receivers as materialized (
    -- 2. The receivers of their reports.
    select r.id, r.status, r.awaits
    from gen_durable.instances r
    where r.id = any ($9::bigint[])
    order by r.id
    for no key update
),
judged as materialized (
    -- 3. The deed for each, but for its unique key:
    --    foreign:  it is of another machine
    --    live:     it has not ended
    --    done:     it is done
    --    moved:    it has given the key back by which it was found
    --    version:  the step or the state is of another version
    --    step:     its registered version has no such step
    --    retried:  it is returned to its queue
    select l.*, case
        when $10::text is not null and l.unique_guard is distinct from $10::text then 'moved'
        when l.fsm <> $2::text then 'foreign'
        when l.status in ('runnable', 'executing', 'awaiting_signal') then 'live'
        when l.status = 'done' then 'done'
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
holders as materialized (
    -- 4. The instance that holds the unique key of each. If several rows had the same key, the
    --    newest of them gets it.
    select j.id, coalesce(
        (
            select h.id
            from gen_durable.instances h
            where h.fsm = j.fsm and h.unique_guard = j.unique_key and h.id <> j.id
        ),
        nullif(
            pg_catalog.first_value(j.id) over (
                partition by j.fsm, j.unique_key order by j.unique_guard is null, j.id desc
            ),
            j.id
        )
    ) as holder
    from judged j
    where j.deed = 'retried' and j.unique_key is not null and 'runnable' = any (j.unique_scope)
),
deeds as materialized (
    -- 5. The deed for each. `taken`: another instance holds its unique key, and is the `holder`.
    select j.id, j.fsm, j.fsm_version, j.status, j.report_to, j.unique_key, h.holder,
           case when h.holder is not null then 'taken' else j.deed end as deed
    from judged j
    left join holders h on h.id = j.id
),
withdrawn as (
    -- 6. The reports in the receivers' inboxes. One that is owed is withdrawn with the bit below. A
    --    receiver that has failed keeps its inbox, and may be retried with it.
    -- In the `case` Postgres hashes the rows, and joins nothing in a nested loop.
    delete from gen_durable.signals s
    where s.target_id = any (array(select r.id from receivers r where r.status not in ('executing', 'done')))
      and case
          when (s.target_id, s.name, s.payload ->> 'id') in (
              select d.report_to, 'ended' || '(' || d.fsm || ')', d.id::text from deeds d where d.deed = 'retried'
          )
          then s.payload ->> 'status' in ('failed', 'cancelled')
          else false
      end
    returning (s.payload ->> 'id')::bigint as id, s.target_id, s.name
),
expects as (
    -- 7. A receiver that is parked until several have come waits for as many more again.
    update gen_durable.instances r
    set awaits_more = r.awaits_more + (
            select pg_catalog.count(*)::int
            from withdrawn w
            where w.target_id = r.id and w.name = any (r.awaits)
        ),
        updated_at = gen_durable.now()
    where r.id = any (array(
        select w.target_id
        from withdrawn w
        join receivers t on t.id = w.target_id
        where t.status = 'awaiting_signal' and w.name = any (t.awaits)
    ))
),
retried as (
    -- 8. The rows, at the front of their lives again.
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
        trace_context = '-' || pg_catalog.ltrim(i.trace_context, '-'),
        -- A pause of its own lasts.
        blocked_by = i.blocked_by & 8,
        paused_by = case when i.blocked_by & 8 = 8 then 0 end,
        report_to = case
            when coalesce(i.owes, 0) & 1 = 1
              or i.id in (select w.id from withdrawn w)
              or i.report_to not in (
                  select r.id
                  from receivers r
                  where r.status in ('runnable', 'executing', 'awaiting_signal')
              )
            then i.report_to
        end,
        owes = nullif(i.owes & 2, 0),
        cancelled_at = null,
        finished_at = null,
        revision = i.revision % 4611686018427387904 + 1,
        unique_released = case when 'runnable' <> all (i.unique_scope) then true end,
        updated_at = gen_durable.now()
    where i.id = any (array(select d.id from deeds d where d.deed = 'retried'))
    returning i.id, i.queue, i.report_to
),
forgotten as (
    -- 9. The deduplication keys.
    delete from gen_durable.signal_keys k
    where $8::boolean and k.target_id = any (array(select r.id from retried r))
),
noted as (
    -- 10. The audit.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($3::text, session_user), 'retry', $4::text, d.id, d.fsm
    from deeds d
    where d.deed = 'retried'
    order by d.id
)
-- 11. One row for each instance that exists.
--     queue:       the row's queue
--     owes:        false: nothing is left to an engine
--     holder:      the instance that holds the unique key
--     heard:       true if the receiver has heard of the end before, and hears of the next one not
--     steps:       the steps of the registered version
select d.id, d.fsm, d.deed, d.status, null::text as reason, r.queue, false as owes,
       d.holder,
       d.deed = 'retried' and d.report_to is not null and r.report_to is null as heard,
       d.fsm_version,
       case when d.deed = 'step' then (
           select m.steps
           from gen_durable.machines m
           where m.fsm = d.fsm and m.fsm_version = d.fsm_version
       ) end as steps,
       d.unique_key
from deeds d
left join retried r on r.id = d.id
order by d.id
