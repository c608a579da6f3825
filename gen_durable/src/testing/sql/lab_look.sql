-- Tells where an instance stands.
--
-- $1 bigint: the instance
select i.fsm, i.step, i.status, i.attempt, i.awaits, i.last_error,
       i.state::text as state, i.result::text as result,
       (extract(epoch from coalesce(i.wake_at, i.eligible_at)) * 1000000)::bigint as due
from gen_durable.instances i
where i.id = $1::bigint
