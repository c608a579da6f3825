-- Finds rows that are parked without a timeout, and what they wait for. The doctor runs it.
--
-- Invariant: it examines the ten thousand oldest rows of the table, and the ten thousand newest: no
-- index has such rows. Retention deletes what has ended, so a row that waits for ever becomes one
-- of the oldest.
--
-- $1 bigint: the seconds after which a park is long
--
-- undeclared: true if the row's version is registered, and declares none of the signals
-- reports:    true if the row waits for reports alone
-- since:      the time of its last change, in microseconds since 1970
with oldest as materialized (
    -- 1. The rows to examine. With the limits the filter stays outside, as in find_instances.sql.
    select i.id, i.fsm, i.fsm_version, i.step, i.status, i.awaits, i.wake_at, i.updated_at, i.revision
    from gen_durable.instances i
    order by i.id
    limit 10000
),
newest as materialized (
    select i.id, i.fsm, i.fsm_version, i.step, i.status, i.awaits, i.wake_at, i.updated_at, i.revision
    from gen_durable.instances i
    order by i.id desc
    limit 10000
),
parked as materialized (
    select o.id, o.fsm, o.fsm_version, o.step, o.awaits, o.updated_at, o.revision
    from oldest o
    where o.status = 'awaiting_signal' and o.wake_at is null
    union all
    select n.id, n.fsm, n.fsm_version, n.step, n.awaits, n.updated_at, n.revision
    from newest n
    where n.status = 'awaiting_signal' and n.wake_at is null
      and n.id > (select pg_catalog.max(o.id) from oldest o)
)
-- 2. Those that have no way out, may have none, or have waited for long.
select p.id, p.fsm, p.fsm_version, p.step, p.awaits, p.revision, j.undeclared, j.reports,
       (extract(epoch from p.updated_at) * 1000000)::bigint as since
from parked p
left join gen_durable.machines m on m.fsm = p.fsm and m.fsm_version = p.fsm_version
cross join lateral (
    select m.fsm is not null and not p.awaits && m.signals as undeclared,
           not exists (select from unnest(p.awaits) as a (name) where a.name not like 'ended' || '(%') as reports
) as j
where p.awaits is not null
  and (
      j.undeclared or j.reports
      or p.updated_at < gen_durable.now() - $1::bigint * interval '1 second'
  )
order by p.id
