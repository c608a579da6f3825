-- Lists the oldest signals of an instance's inbox. Looks at an inbox run it.
--
-- Invariant: the answer is bounded in signals and in bytes. It has no long payload.
--
-- $1 bigint:  the instance
-- $2 bigint:  the most signals to list
-- $3 integer: the most bytes of a payload that is listed
--
-- An instance with an empty inbox has a row without a signal. `arrived_at` is in microseconds since
-- 1970.
with oldest as materialized (
    -- 1. The oldest signals. A payload that takes too many bytes in the table is not read. Its size
    --    is then the size there, which is above the limit too.
    select n.id, n.name, n.dedup_key, n.inserted_at, n.payload, case
        when pg_catalog.pg_column_size(n.payload) <= $3::integer
        then pg_catalog.octet_length(n.payload::text)
        else pg_catalog.pg_column_size(n.payload)
    end as size
    from gen_durable.signals n
    where n.target_id = $1::bigint
    order by n.id
    limit $2::bigint
)
-- 2. The instance's machine, beside each of them.
select i.fsm,
       s.id,
       s.name,
       s.dedup_key,
       (extract(epoch from s.inserted_at) * 1000000)::bigint as arrived_at,
       s.size,
       case when s.size <= $3::integer then s.payload::text end as payload
from gen_durable.instances i
left join oldest s on true
where i.id = $1::bigint
order by s.id
