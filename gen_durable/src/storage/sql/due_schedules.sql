-- Finds the schedules of an engine that are due, and those of which ticks may be due again because
-- the clock went back.
--
-- Invariant: it locks nothing. The engine decides by what it reads, and lock_schedule.sql refuses
-- what has changed meanwhile.
--
-- $1 text[]: the names of the engine's schedules
-- $2 text[]: their declarations. A row that is reckoned by another one is not this engine's.
with due as materialized (
    -- 1. All that is due: the index is read before the names, of which there may be thousands.
    select s.name, s.body, s.revision, s.next_at, s.passed_at, s.skipped, s.last_at,
           s.last_id, s.waiting_at, s.asked_at, s.paused_at, s.paused_until, s.due_at
    from gen_durable.schedules s
    where s.due_at <= gen_durable.now()
    union all
    -- 2. Those of which ticks may come again. Each half reads an index of its own.
    select s.name, s.body, s.revision, s.next_at, s.passed_at, s.skipped, s.last_at,
           s.last_id, s.waiting_at, s.asked_at, s.paused_at, s.paused_until, s.due_at
    from gen_durable.schedules s
    where s.skipped_to > gen_durable.now() and coalesce(s.due_at > gen_durable.now(), true)
)
-- 3. Those of the engine. The times are in microseconds since 1970.
select d.name, d.revision,
       (extract(epoch from d.next_at) * 1000000)::bigint as next_at,
       (extract(epoch from d.passed_at) * 1000000)::bigint as passed_at,
       d.skipped,
       (extract(epoch from d.last_at) * 1000000)::bigint as last_at,
       d.last_id,
       (extract(epoch from d.waiting_at) * 1000000)::bigint as waiting_at,
       (extract(epoch from d.asked_at) * 1000000)::bigint as asked_at,
       coalesce(d.paused_until > gen_durable.now(), d.paused_at is not null) as paused,
       -- 4. True if its last instance has not ended. One that was deleted has.
       coalesce(
           (select i.finished_at is null from gen_durable.instances i where i.id = d.last_id), false
       ) as active
from due d
join unnest($1::text[], $2::text[]) as own (name, body) on own.name = d.name and own.body = d.body
order by d.due_at
