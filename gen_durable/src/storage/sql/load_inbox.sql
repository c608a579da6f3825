-- Loads from `gen_durable.signals` the signals of a long inbox that a claim or a commit left out,
-- and counts those that stay left out. The executor runs it for a step that needs them.
--
-- Invariant: the answer is bounded in signals and in bytes. The oldest signals come first, each if
-- it begins within the bytes, so the first one is always loaded.
--
-- $1 bigint: the instance
-- $2 bigint: the signal after which to load
-- $3 bigint: the most signals to load
-- $4 bigint: the bytes within which each signal begins
-- $5 text:   the name of the signals to load; null loads all names
-- $6 bigint: the newest signal up to which all are loaded already
with portion as materialized (
    -- 1. The oldest signals, with the weight of those before each. A compressed payload weighs
    --    eight times what it takes on disk, as in claim.sql.
    select s.*, pg_catalog.sum(s.weight) over (order by s.id) - s.weight as before
    from (
        select s.id, s.name, s.payload, s.trace_context,
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
    -- 2. The signals among them that begin within the bytes.
    select p.id, p.name, p.payload, p.trace_context from portion p where p.before < $4
),
beyond as materialized (
    -- 3. The number of signals of each name after all loaded ones: after $6, and after the signals
    --    of this answer too if no name was asked for.
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
               pg_catalog.json_build_array(l.id, l.name, l.payload, l.trace_context) order by l.id
           )::text
           from loaded l
       ) as inbox,
       -- The counts have the order of the names. `last` is the newest of the counted signals.
       array(select b.name from beyond b order by b.name) as names,
       array(select b.count from beyond b order by b.name) as counts,
       (select pg_catalog.max(b.last) from beyond b) as last
