-- Reads the signals that have come to an instance since its worker looked last. The engine runs it
-- after commit_step.sql, for an instance that goes on to its next step.
--
-- Invariant: this snapshot is younger than the lock of the row, so each signal that was delivered
-- before the commit is among them. Above `read committed` the step's own snapshot is older, and the
-- statement runs on another connection after the commit.
--
-- The answer has the form and the bounds of an inbox in claim.sql; null if there is no new signal.
--
-- $1 bigint: the instance
-- $2 bigint: the last signal of its inbox that the worker knows of
select pg_catalog.json_build_array(
           pg_catalog.json_agg(
               pg_catalog.json_build_array(s.id, s.name, s.payload, s.trace_context) order by s.id
           ) filter (where s.fits),
           not pg_catalog.bool_and(s.fits)
       )::text
from (
    select s.id, s.name, s.payload, s.trace_context,
           pg_catalog.row_number() over oldest <= 100
           and pg_catalog.sum(s.weight) over oldest - s.weight < 65536 as fits
    from (
        select s.id, s.name, s.payload, s.trace_context,
               pg_catalog.pg_column_size(s.payload)::bigint * case
                   when pg_catalog.pg_column_compression(s.payload) is null then 1 else 8
               end as weight
        from gen_durable.signals s
        where s.target_id = $1::bigint and s.id > $2::bigint
        order by s.id
        limit 101
    ) as s
    window oldest as (order by s.id)
) as s
having pg_catalog.count(*) > 0
