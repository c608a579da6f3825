-- Registers queues. An engine runs it at its start, for the queues that it serves.
--
-- Invariant: a queue that is registered already is neither written nor locked. Rows are inserted in
-- the order of their names, so two engines that start at once cannot wait for each other in a
-- circle.
--
-- $1 text[]: the queues
insert into gen_durable.queues (name)
select s.name
from unnest($1::text[]) as s (name)
where not exists (select from gen_durable.queues q where q.name = s.name)
order by s.name collate "C"
on conflict (name) do nothing
