-- Locks the instances $1 in the order of their ids, which is everybody's order, so that two
-- transactions that each touch several of them cannot wait for each other in a circle.
--
-- If $2 is true, it leaves out what somebody else has locked, and the answer has their ids: the outcomes
-- that need these rows must not hold up the others. $3 is how long the transaction waits for a lock from
-- here on: for one of these rows, and for a unique key that somebody else is inserting.
with lock_timeout_set as materialized (
    select pg_catalog.set_config('lock_timeout', $3::text, true)
),
waited_for as materialized (
    select i.id
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and not $2 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
free as materialized (
    select i.id
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and $2 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update skip locked
)
select i.id
from gen_durable.instances i
where i.id = any ($1::bigint[])
  and i.id <> all (array(select w.id from waited_for w union all select f.id from free f))
