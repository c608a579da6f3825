-- Adds the limits that nobody has declared before, with their bounds. An engine runs it in the
-- transaction that registers its worker, after declare.sql.
--
-- Invariant: a limit has bounds before a step asks for its turn in it. A row that is there is left
-- alone before the insert: that would wait for an operator's open transaction.
--
-- $1 text[]:   the names
-- $2 text[]:   their declarations
-- $3 int[]:    the most runs at once, or null
-- $4 int[]:    the starts in a period, or null
-- $5 bigint[]: the period in microseconds, or null
-- $6 int[]:    the starts of a burst, or null
insert into gen_durable.limits (name, body, at_once, starts, period, burst)
select n.name, n.body, n.at_once, n.starts, n.period, n.burst
from unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::bigint[], $6::int[])
    as n (name, body, at_once, starts, period, burst)
where not exists (select from gen_durable.limits l where l.name = n.name)
order by n.name collate "C"
on conflict (name) do nothing
