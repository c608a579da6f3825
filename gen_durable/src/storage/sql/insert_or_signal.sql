-- Sends a signal to the instance that holds a unique key, and inserts that instance if there is
-- none. `with_signal` runs it.
--
-- Invariant: the signal is in the inbox of the new instance or of the live holder, or nothing is
-- changed. A new instance never appears without the signal.
--
-- There may be no row in the answer. The key is taken, but by an instance that this statement's
-- snapshot does not show, or that has given the key back since. The caller runs the statement
-- again: the next snapshot shows the holder, or the key is free.
--
-- $1 text:      the machine
-- $2 int:       its version
-- $3 text:      the step
-- $4 text:      the state, as JSON
-- $5 text:      the queue
-- $6 smallint:  the priority
-- $7 bigint:    the delay from now, in microseconds
-- $8 bigint:    the time from which it may run, in microseconds since 1970; null if the delay
--               counts
-- $9 text:      the partition key, or null
-- $10 text:     the unique key
-- $11 text:     the statuses in which it holds its unique key, separated by commas
-- $12 text:     the name of the signal
-- $13 text:     its payload, as JSON
-- $14 text:     its deduplication key, or null
-- $15 text:     how long the statement waits for a lock; null leaves the transaction's own timeout
-- $16 bigint:   the instance to which a new one reports its end, or null
-- $17 text:     the trace context of the new instance and of the signal, or null
with lock_timeout_set as materialized (
    -- 1. The lock timeout. Its count is read below (`>= 0` is always true), so it is set before a
    --    lock is waited for.
    select pg_catalog.set_config('lock_timeout', $15::text, true) from (select) as one
    where $15::text is not null
),
inserted as (
    -- 2. The new instance, if the key is free. If another transaction is inserting the key, this
    --    waits for its end.
    insert into gen_durable.instances (
        fsm, fsm_version, step, state, queue, priority, eligible_at,
        partition_key, unique_key, unique_scope, report_to, trace_context
    )
    select $1::text, $2::int, $3::text, $4::json, $5::text, $6::smallint,
           case
               when $8::bigint is not null
               then 'epoch'::timestamptz + $8::bigint * interval '1 microsecond'
               else gen_durable.now() + $7::bigint * interval '1 microsecond'
           end,
           $9::text, $10::text, pg_catalog.string_to_array($11::text, ','), $16::bigint,
           $17::text
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
    on conflict (fsm, unique_guard) where unique_guard is not null do nothing
    returning id
),
holder as materialized (
    -- 3. Otherwise the holder of the key, locked. It cannot end, park or be claimed between the
    --    look at its status and the end of the transaction. A lock that was waited for shows the
    --    row as it is then: if it has given the key back, there is no holder.
    select i.id, i.status, i.awaits, i.awaits_more
    from gen_durable.instances i
    where i.fsm = $1::text and i.unique_guard = $10::text and not exists (select from inserted)
    for no key update
),
target as materialized (
    select n.id, true as started, 'runnable' as status, null::text[] as awaits,
           null::int as awaits_more
    from inserted n
    union all
    select h.id, false, h.status, h.awaits, h.awaits_more from holder h
),
live as materialized (
    -- 4. The target, unless it has ended and still holds the key.
    select t.id, t.status, t.awaits, t.awaits_more
    from target t
    where t.status in ('runnable', 'executing', 'awaiting_signal')
),
new_key as (
    -- 5. The deduplication key, if it is new to the target.
    insert into gen_durable.signal_keys (target_id, dedup_key)
    select l.id, $14::text from live l where $14::text is not null
    on conflict do nothing
    returning target_id
),
fresh as materialized (
    -- 6. The target, if the signal is no duplicate.
    select l.id, l.status, l.awaits, l.awaits_more
    from live l
    where $14::text is null or exists (select from new_key)
),
delivered as (
    -- 7. The signal.
    insert into gen_durable.signals (target_id, name, payload, dedup_key, trace_context)
    select f.id, $12::text, $13::json, $14::text, $17::text from fresh f
),
awaited as materialized (
    -- 8. The target, if it is parked for the signal. `more` is the number of signals that it waits
    --    for after this one.
    select f.id, coalesce(f.awaits_more, 1) - 1 as more
    from fresh f
    where f.status = 'awaiting_signal' and $12::text = any (f.awaits)
),
woken as (
    -- 9. It is made runnable, if it has all that it waits for.
    update gen_durable.instances i
    set status = 'runnable',
        awaits = null,
        awaits_more = null,
        wake_at = null,
        eligible_at = gen_durable.now(),
        trace_context = coalesce($17::text, '-' || pg_catalog.ltrim(i.trace_context, '-')),
        unique_released = i.unique_released or 'runnable' <> all (i.unique_scope),
        updated_at = gen_durable.now()
    where i.id = any (array(select a.id from awaited a where a.more <= 0))
    returning i.queue
),
lowered as (
    -- 10. Otherwise it waits for one signal less.
    update gen_durable.instances i
    set awaits_more = (select a.more from awaited a),
        updated_at = gen_durable.now()
    where i.id = any (array(select a.id from awaited a where a.more > 0))
)
-- 11. The target; no row if the statement is to be run again.
--    started:     true if the instance is new
--    status:      the target's, before it was woken
--    fresh:       true if the signal was delivered
--    woken_queue: the target's queue, if this statement woke the target
select t.id,
       t.started,
       t.status,
       exists (select from fresh) as fresh,
       (select w.queue from woken w) as woken_queue
from target t
