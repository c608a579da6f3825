-- Finds old transactions, which keep vacuum from removing dead rows. The doctor runs it.
--
-- $1 bigint: the seconds after which a transaction is old
--
-- A row is a session, with its process as `name`; a prepared transaction, with its name; or, with
-- the kind `hidden`, the number of sessions whose transactions this role may not see. `since` is in
-- microseconds since 1970.
(
    select 'session' as kind, a.pid::text || coalesce(' (' || nullif(a.application_name, '') || ')', '') as name,
           (extract(epoch from a.xact_start) * 1000000)::bigint as since
    from pg_catalog.pg_stat_activity a
    where a.datname = pg_catalog.current_database() and a.backend_type = 'client backend'
      and a.pid <> pg_catalog.pg_backend_pid()
      and a.xact_start < gen_durable.clock() - $1::bigint * interval '1 second'
    order by a.xact_start
    limit 10
)
union all
(
    select 'prepared', p.gid, (extract(epoch from p.prepared) * 1000000)::bigint
    from pg_catalog.pg_prepared_xacts p
    where p.database = pg_catalog.current_database()
      and p.prepared < gen_durable.clock() - $1::bigint * interval '1 second'
    order by p.prepared
    limit 10
)
union all
(
    select 'hidden', pg_catalog.count(*)::text, null
    from pg_catalog.pg_stat_activity a
    where a.datname = pg_catalog.current_database() and a.usesysid is not null and a.backend_type is null
    having pg_catalog.count(*) > 0
)
