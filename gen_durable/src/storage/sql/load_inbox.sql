-- The signals of the instance $1 after the signal $2, of the name $5 if it is not null: the $3 oldest, as
-- far as they begin within $4 bytes. A compressed payload counts as in claim.sql.
--
-- And how many there are, by name, after all that is loaded: that is, after the signal $6, and if no name
-- was asked for, after those that this answer brings.
with portion as materialized (
    select s.*, pg_catalog.sum(s.weight) over (order by s.id) - s.weight as before
    from (
        select s.id, s.name, s.payload,
               pg_catalog.pg_column_size(s.payload)::bigint * case
                   when pg_catalog.pg_column_compression(s.payload) is null then 1 else 8
               end as weight
        from gen_durable.signals s
        where s.target_id = $1 and s.id > $2 and ($5::text is null or s.name = $5::text)
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
      and s.id > greatest(
          $6, (select pg_catalog.max(l.id) from loaded l where $5::text is null)
      )
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
