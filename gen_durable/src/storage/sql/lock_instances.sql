-- Locks the instances $1 in the order of their ids, which is everybody's order, so that two
-- transactions that each touch several of them cannot wait for each other in a circle.
select i.id
from gen_durable.instances i
where i.id = any ($1::bigint[])
order by i.id
for no key update
