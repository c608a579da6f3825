-- Delivers signals: locks their targets, inserts the signals that the targets accept, and wakes the
-- targets that wait for one. Calls that signal and outcomes that send run it.
--
-- Invariant: a signal is accepted only by a live target, and wakes it if it is parked for the
-- signal. A target that is parked for several wakes with the last of them. The target's lock comes
-- first and is held to the end: a target cannot end, park or be claimed between the look at its
-- status and the insert. A lock that was waited for shows the row as it is then. A park that had
-- the lock first is seen here; a later one sees the signal (wake_parked.sql).
--
-- $1 bigint[]: the targets
-- $2 text[]:   the machine that each target must be of; null for any
-- $3 text[]:   the names of the signals
-- $4 text[]:   their payloads, as JSON
-- $5 text[]:   their deduplication keys, or null
-- $6 boolean:  true if a target that another transaction has locked is left out: signals to others
--              must not wait for it
-- $7 text:     how long the statement waits for a lock; null leaves the transaction's own timeout
-- $8 text[]:   the unique key that each target must hold; null for a target that was addressed by
--              its id
-- $9 text[]:   the trace contexts of the senders, or null; null if no signal has one
with lock_timeout_set as materialized (
    -- 1. The lock timeout. Its count is read below (`>= 0` is always true), so it is set before a
    --    lock is waited for.
    select pg_catalog.set_config('lock_timeout', $7::text, true) from (select) as one
    where $7::text is not null
),
sent as materialized (
    -- 2. The signals. `generate_subscripts` tells the planner to expect many, as in insert.sql.
    select *
    from rows from (
        unnest(
            $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $8::text[], $9::text[]
        ),
        pg_catalog.generate_subscripts($1::bigint[], 1)
    ) as s (target_id, fsm, name, payload, dedup_key, unique_key, trace_context, place)
),
waited_for as materialized (
    -- 3. All targets, if locks are waited for. They are locked in the order of ids, so two
    --    deliveries cannot wait for each other in a circle.
    select i.id, i.fsm, i.status, i.awaits, i.awaits_more, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and not $6 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
free as materialized (
    -- 4. The targets that are free, if locked ones are left out.
    select i.id, i.fsm, i.status, i.awaits, i.awaits_more, i.unique_guard
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and $6 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update skip locked
),
targets as materialized (
    select * from waited_for
    union all
    select * from free
),
accepted as materialized (
    -- 5. The signals to live targets of the right machine, numbered within target and deduplication
    --    key.
    select s.*, pg_catalog.row_number() over (
        partition by s.target_id, s.dedup_key order by s.place
    ) as nth_of_key
    from sent s
    join targets t on t.id = s.target_id
    where t.status in ('runnable', 'executing', 'awaiting_signal')
      and (s.fsm is null or s.fsm = t.fsm)
      -- The target held the key when it was looked up. Under its lock, it holds the key to the end.
      and (s.unique_key is null or s.unique_key = t.unique_guard)
),
new_keys as (
    -- 6. The deduplication keys that are new to their targets.
    insert into gen_durable.signal_keys (target_id, dedup_key)
    select a.target_id, a.dedup_key
    from accepted a
    where a.dedup_key is not null and a.nth_of_key = 1
    order by a.target_id, a.dedup_key
    on conflict do nothing
    returning target_id, dedup_key
),
fresh as materialized (
    -- 7. The signals that are no duplicates: those without a key, and the first of each new key.
    select a.*
    from accepted a
    where a.dedup_key is null
       or a.nth_of_key = 1 and (a.target_id, a.dedup_key) in (
           select k.target_id, k.dedup_key from new_keys k
       )
),
delivered as (
    -- 8. The fresh signals, put into the inboxes in the order in which they were sent.
    insert into gen_durable.signals (target_id, name, payload, dedup_key, trace_context)
    select f.target_id, f.name, f.payload::json, f.dedup_key, f.trace_context
    from fresh f
    order by f.place
),
awaited as materialized (
    -- 9. The parked targets that await fresh signals. `more` is the number of signals that each
    --    waits for after these; 0 or less if it wakes. `trace_context` is that of the last of them.
    select t.id, coalesce(t.awaits_more, 1) - pg_catalog.count(*) as more,
           (pg_catalog.array_agg(f.trace_context order by f.place desc))[1] as trace_context
    from targets t
    join fresh f on f.target_id = t.id and f.name = any (t.awaits)
    where t.status = 'awaiting_signal'
    group by t.id, t.awaits_more
),
woken as (
    -- 10. Those that have all that they wait for, made runnable. The run that follows is the child
    --     of the sender's span. Without one, it is linked to what it was the child of (`-`).
    update gen_durable.instances i
    set status = 'runnable',
        awaits = null,
        awaits_more = null,
        wake_at = null,
        eligible_at = gen_durable.now(),
        trace_context = coalesce(
            c.trace_contexts ->> i.id::text, '-' || pg_catalog.ltrim(i.trace_context, '-')
        ),
        unique_released = i.unique_released or 'runnable' <> all (i.unique_scope),
        updated_at = gen_durable.now()
    from (
        select pg_catalog.jsonb_object_agg(a.id, a.trace_context)
                   filter (where a.trace_context is not null) as trace_contexts
        from awaited a
    ) as c
    where i.id = any (array(select a.id from awaited a where a.more <= 0))
    returning i.id, i.queue
),
lowered as (
    -- 11. The others wait for fewer signals. Each is updated once. A join could compare each row
    --     with each; the object is searched for each.
    update gen_durable.instances i
    set awaits_more = (c.more -> i.id::text)::int,
        updated_at = gen_durable.now()
    from (
        select pg_catalog.jsonb_object_agg(a.id, a.more) filter (where a.more > 0) as more from awaited a
    ) as c
    where i.id = any (array(select a.id from awaited a where a.more > 0))
)
-- 12. One row for each signal, in the order of the parameters.
--     fsm, status: the target's; null if there is no such instance, or if it was left out as locked
--     fresh:       true if the signal was delivered; false for a duplicate, or if it was refused
--     woken_queue: the target's queue, if this statement woke the target
--     held:        true if another transaction has the target locked
--     released:    true if the target does not hold the unique key any more, or is held. Nothing
--                  was delivered
select t.fsm,
       t.status,
       s.place in (select f.place from fresh f) as fresh,
       w.queue as woken_queue,
       -- The target was not locked above, and yet exists. A target that was waited for and is
       -- missing has been deleted: only this statement's snapshot still shows it.
       case when t.id is null and $6 then (
           select true from gen_durable.instances h where h.id = s.target_id
       ) is not null else false end as held,
       s.unique_key is not null and s.unique_key is distinct from t.unique_guard as released
from sent s
left join targets t on t.id = s.target_id
left join woken w on w.id = s.target_id
order by s.place
