-- Reads what the doctor must know of the tables: their rows, dead or not, and their vacuums.
--
-- vacuumed: the time of the last vacuum, or that since which the table is in use if there was none;
--           in microseconds since 1970
-- off:      true if the table's own settings turn autovacuum off
select s.relname::text as name, s.n_live_tup as live, s.n_dead_tup as dead,
       (extract(epoch from greatest(s.last_vacuum, s.last_autovacuum, (
           select pg_catalog.min(q.registered_at) from gen_durable.queues q
       ))) * 1000000)::bigint as vacuumed,
       coalesce(pg_catalog.array_to_string(c.reloptions, ',') ~ 'autovacuum_enabled=(off|false|no|0)', false) as off
from pg_catalog.pg_stat_user_tables s
join pg_catalog.pg_class c on c.oid = s.relid
where s.schemaname = 'gen_durable'
order by s.relname
