-- Finds out whether today or tomorrow has no partition of the history, and whether the default
-- partition has rows. The doctor runs it. Rows of a day without a partition lie in `history_rest`,
-- and are no illness. Each new partition makes Postgres read the default one under a lock.
--
-- missing: the days of today and tomorrow that have none
-- rest:    true if the default partition has had rows
select array(
           select pg_catalog.to_char(d.day, 'YYYY-MM-DD')
           from (
               select (gen_durable.clock() at time zone 'UTC')::date + n.days as day
               from unnest('{0,1}'::int[]) as n (days)
           ) as d
           where pg_catalog.to_regclass('gen_durable.history_' || pg_catalog.to_char(d.day, 'YYYYMMDD')) is null
           order by d.day
       ) as missing,
       coalesce(pg_catalog.pg_relation_size(pg_catalog.to_regclass('gen_durable.history_default')), 0) > 0 as rest
