-- Finds what is paused, as far as an engine must know it. The service `debts` runs it, and the
-- engine holds its claims back accordingly.
--
-- Invariant: it reads the scopes and the rows of this worker, however many instances are paused by
-- themselves.
--
-- $1 bigint: the worker. `between` keeps the planner from an estimate by the statistics of
--            `locked_by`, as in lost_claims.sql
--
-- A row is one of three: a queue, a machine or a step; an instance that the worker has; or, with
-- nothing but `ends_in`, the next time at which some pause ends. `ends_in` is in microseconds.
select p.queue, p.fsm, p.step, null::bigint as instance_id, null::bigint as ends_in
from gen_durable.pauses p
where p.instance_id is null and (p.until is null or p.until > gen_durable.now())
union all
select null, null, null, i.id, null
from gen_durable.instances i
where i.locked_by between $1 and $1 and i.blocked_by & 8 = 8
union all
select null, null, null, null,
       (extract(epoch from (least(n.until, gen_durable.now() + interval '1 day') - gen_durable.clock())) * 1000000)::bigint
from (select pg_catalog.min(p.until) as until from gen_durable.pauses p where p.until is not null) as n
where n.until is not null
