-- The signals of the instance $1 after the signal $2: the $3 oldest, as far as they begin within $4
-- bytes, and how many there are beyond, by name. A compressed payload counts as in claim.sql.
with portion as materialized (
    select s.*, pg_catalog.sum(s.weight) over (order by s.id) - s.weight as before
    from (
        select s.id, s.name, s.payload,
               pg_catalog.pg_column_size(s.payload)::bigint * case
                   when pg_catalog.pg_column_compression(s.payload) is null then 1 else 8
               end as weight
        from gen_durable.signals s
        where s.target_id = $1 and s.id > $2
        order by s.id
        limit $3
    ) as s
),
loaded as materialized (
    select p.id, p.name, p.payload from portion p where p.before < $4
),
beyond as materialized (
    select s.name, pg_catalog.count(*) as count, pg_catalog.max(s.id) as last
    from gen_durable.signals s
    where s.target_id = $1
      and s.id > coalesce((select pg_catalog.max(l.id) from loaded l), $2)
    group by s.name
)
select (
           select pg_catalog.json_agg(
               pg_catalog.json_build_array(l.id, l.name, l.payload) order by l.id
           )::text
           from loaded l
       ) as inbox,
       array(select b.name from beyond b order by b.name) as names,
       array(select b.count from beyond b order by b.name) as counts,
       (select pg_catalog.max(b.last) from beyond b) as last
