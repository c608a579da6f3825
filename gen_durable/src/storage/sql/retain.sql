-- States for how long the ended instances of some machines are kept. An engine runs it at its
-- start, for its own machines and those of its configuration.
--
-- Invariant: only what has changed is written.
--
-- $1 text[]:    the machines, each once
-- $2 bigint[]:  for each, the microseconds for which its instances are kept; null keeps them for
--               ever
-- $3 boolean[]: for each, true if $2 says something; if not, its entry is deleted, and the default
--               applies again
with stated as (
    select s.fsm, s.keep_for * interval '1 microsecond' as keep_for, s.said
    from unnest($1::text[], $2::bigint[], $3::boolean[]) as s (fsm, keep_for, said)
),
forgotten as (
    delete from gen_durable.retention r
    where r.fsm = any (array(select s.fsm from stated s where not s.said))
)
insert into gen_durable.retention as r (fsm, keep_for)
select s.fsm, s.keep_for
from stated s
where s.said
order by s.fsm
on conflict (fsm) do update set keep_for = excluded.keep_for
where r.keep_for is distinct from excluded.keep_for
