-- Finds the instances that hold unique keys. Inserts run it for the rows that insert.sql left out.
--
-- Invariant: one row for each key, in the order of the parameters; null for a key that has no
-- holder.
--
-- $1 text[]: the machines
-- $2 text[]: the unique key of each
select (
    select i.id
    from gen_durable.instances i
    where i.fsm = k.fsm and i.unique_guard = k.unique_key
)
from unnest($1::text[], $2::text[]) with ordinality as k (fsm, unique_key, place)
order by k.place
