-- Delivers signals: locks their targets in the order of ids, inserts what the targets accept, and
-- wakes those that wait for it.
--
-- The lock comes first and is held to the end: a target cannot end, park or be claimed between the
-- look at its status and the insert, and a lock that was waited for shows the row as it is then. A
-- park that holds the lock first is seen here; one that comes after sees the signal
-- (wake_parked.sql).
--
-- If $6 is true, a target that somebody else has locked is left out, and the answer says that it is held:
-- the signals to others must not wait for it. $7 is how long the statement waits for a lock; if it is null,
-- for as long as the transaction does.
--
-- `generate_subscripts` is there for the planner, as in insert.sql.
with lock_timeout_set as materialized (
    select pg_catalog.set_config('lock_timeout', $7::text, true) from (select) as one
    where $7::text is not null
),
sent as materialized (
    select *
    from rows from (
        unnest(
            $1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]
        ),
        pg_catalog.generate_subscripts($1::bigint[], 1)
    ) as s (target_id, fsm, name, payload, dedup_key, place)
),
waited_for as materialized (
    select i.id, i.fsm, i.status, i.awaits
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and not $6 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
free as materialized (
    select i.id, i.fsm, i.status, i.awaits
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
    select s.*, pg_catalog.row_number() over (
        partition by s.target_id, s.dedup_key order by s.place
    ) as nth_of_key
    from sent s
    join targets t on t.id = s.target_id
    where t.status in ('runnable', 'executing', 'awaiting_signal')
      and (s.fsm is null or s.fsm = t.fsm)
),
new_keys as (
    insert into gen_durable.signal_keys (target_id, dedup_key)
    select a.target_id, a.dedup_key
    from accepted a
    where a.dedup_key is not null and a.nth_of_key = 1
    order by a.target_id, a.dedup_key
    on conflict do nothing
    returning target_id, dedup_key
),
fresh as materialized (
    select a.*
    from accepted a
    where a.dedup_key is null
       or a.nth_of_key = 1 and (a.target_id, a.dedup_key) in (
           select k.target_id, k.dedup_key from new_keys k
       )
),
delivered as (
    insert into gen_durable.signals (target_id, name, payload, dedup_key)
    select f.target_id, f.name, f.payload::json, f.dedup_key
    from fresh f
    order by f.place
),
woken as (
    update gen_durable.instances i
    set status = 'runnable',
        awaits = null,
        wake_at = null,
        eligible_at = gen_durable.now(),
        unique_scope = case when 'runnable' = any (i.unique_scope) then i.unique_scope end,
        updated_at = gen_durable.now()
    where i.id = any (array(
        select t.id
        from targets t
        where t.status = 'awaiting_signal'
          and exists (select from fresh f where f.target_id = t.id and f.name = any (t.awaits))
    ))
    returning i.id, i.queue
)
select t.fsm,
       t.status,
       s.place in (select f.place from fresh f) as fresh,
       w.queue as woken_queue,
       -- Not found among the targets, and there all the same.
       case when t.id is null then (
           select true from gen_durable.instances h where h.id = s.target_id
       ) is not null else false end as held
from sent s
left join targets t on t.id = s.target_id
left join woken w on w.id = s.target_id
order by s.place
