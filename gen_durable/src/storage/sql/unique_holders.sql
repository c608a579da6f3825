-- The instances that hold the unique keys $2 of the machines $1, in that order.
select (
    select i.id
    from gen_durable.instances i
    where i.fsm = k.fsm and i.unique_guard = k.unique_key
)
from unnest($1::text[], $2::text[]) with ordinality as k (fsm, unique_key, place)
order by k.place
