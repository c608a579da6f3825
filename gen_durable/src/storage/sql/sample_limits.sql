-- Reads the use of limits for the metrics: the weight that runs, the rows that wait, the bounds in
-- force. The observer runs it.
--
-- Invariant: it examines at most 200 limits, 1,000 buckets of each, and 1,000 waiting rows of each.
-- The numbers are in the text, so that the planner knows them.
--
-- `starts_per_second` is null if no rate is bounded.
with living as materialized (
    -- 1. The workers whose runs count, as `gen_durable.holds` says.
    select pg_catalog.array_agg(w.worker) as workers
    from (
        select w.id as worker from gen_durable.workers w
        union all
        select l.worker
        from gen_durable.lost_workers l
        where l.lost_at <= gen_durable.now() and l.counts_until > gen_durable.now()
    ) as w
)
-- 2. The limits with their buckets: the name, and the name with the character 31 and a key. Those
--    of another limit may lie between them.
select l.name, l.max_at_once as at_once,
       l.max_starts::double precision * 1000000 / nullif(l.max_period, 0) as starts_per_second,
       (
           select coalesce(pg_catalog.sum(h.held), 0)::bigint
           from (
               select b.workers, b.held
               from gen_durable.limit_buckets b
               where b.bucket >= l.name and b.bucket < l.name || ' ' and b.limit_name = l.name
               order by b.bucket
               limit 1000
           ) as b
           cross join lateral unnest(b.workers, b.held) as h (worker, held)
           where h.worker = any (select unnest(v.workers) from living v)
       ) as in_use,
       (
           select pg_catalog.count(*)
           from (
               select
               from gen_durable.instances i
               where i.limited_by >= l.name and i.limited_by < l.name || ' '
                 and (i.limited_by = l.name or i.limited_by >= l.name || pg_catalog.chr(31))
                 and i.blocked_by & 16 = 16
               order by i.limited_by
               limit 1000
           ) as i
       ) as waiting
from (select a.* from gen_durable.limits a order by a.name limit 200) as l
order by l.name
