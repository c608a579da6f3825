-- Reports the ends of instances: puts a signal into the inbox of each one's receiver, and wakes the
-- receivers that wait for it. It is deliver.sql for these signals, and runs in the transaction that
-- ends the instances.
--
-- Invariant: an end is reported once, in the commit that makes it or in the one that settles it
-- (settle_owed.sql), or it has no live receiver. The caller has locked the receivers
-- (lock_instances.sql), so this statement waits for no lock.
--
-- $1 bigint[]: the instances that this transaction has ended
-- $2 text[]:   the trace contexts of the runs that have ended them, or null; null if none has one
with ended as materialized (
    -- 1. The ends that are reported.
    select i.id, i.report_to, i.fsm, i.unique_key, i.status, i.result, i.last_error,
           'ended' || '(' || i.fsm || ')' as name,
           case when $2::text[] is not null
               then ($2::text[])[pg_catalog.array_position($1::bigint[], i.id)]
           end as trace_context
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and i.report_to is not null
),
targets as materialized (
    -- 2. The live receivers.
    select t.id, t.status, t.awaits, t.awaits_more
    from gen_durable.instances t
    where t.id = any (array(select distinct e.report_to from ended e))
      and t.status || '' in ('runnable', 'executing', 'awaiting_signal')
    order by t.id
    for no key update
),
delivered as (
    -- 3. The reports, in the order of the ended instances.
    insert into gen_durable.signals (target_id, name, payload, trace_context)
    select t.id, e.name, pg_catalog.json_build_object(
        'id', e.id,
        'key', e.unique_key,
        'status', e.status,
        'result', e.result,
        'reason', case when e.status <> 'done' then e.last_error end
    ), e.trace_context
    from ended e
    join targets t on t.id = e.report_to
    order by e.id
),
awaited as materialized (
    -- 4. The parked receivers that await these, as in deliver.sql.
    select t.id, coalesce(t.awaits_more, 1) - pg_catalog.count(*) as more,
           (pg_catalog.array_agg(e.trace_context order by e.id desc))[1] as trace_context
    from targets t
    join ended e on e.report_to = t.id and e.name = any (t.awaits)
    where t.status = 'awaiting_signal'
    group by t.id, t.awaits_more
),
woken as (
    -- 5. Those that have all that they wait for, made runnable.
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
    returning i.queue
),
lowered as (
    -- 6. The others wait for fewer reports, as in deliver.sql.
    update gen_durable.instances i
    set awaits_more = (c.more -> i.id::text)::int,
        updated_at = gen_durable.now()
    from (
        select pg_catalog.jsonb_object_agg(a.id, a.more) filter (where a.more > 0) as more from awaited a
    ) as c
    where i.id = any (array(select a.id from awaited a where a.more > 0))
)
-- 7. One row of arrays.
--    queues:           those of the receivers that this statement woke
--    dropped, targets: the ended instances whose receiver has ended or does not exist, and these
--                      receivers
select array(select w.queue from woken w) as queues,
       pg_catalog.array_agg(e.id) as dropped,
       pg_catalog.array_agg(e.report_to) as targets
from ended e
where e.report_to <> all (array(select t.id from targets t))
