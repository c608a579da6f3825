-- Reads what the doctor must know of the server: its clock, its version, its settings and its
-- connections.
--
-- clock:       microseconds since 1970
-- connections: those of all databases
-- xid_age:     the age of the database's oldest transaction id
select (extract(epoch from gen_durable.clock()) * 1000000)::bigint as clock,
       pg_catalog.current_setting('server_version_num')::int as version,
       pg_catalog.current_setting('fsync') as fsync,
       pg_catalog.current_setting('full_page_writes') as full_page_writes,
       pg_catalog.current_setting('synchronous_commit') as synchronous_commit,
       pg_catalog.current_setting('autovacuum') as autovacuum,
       pg_catalog.current_setting('track_counts') as track_counts,
       pg_catalog.current_setting('max_connections')::bigint as max_connections,
       (select pg_catalog.sum(d.numbackends)::bigint from pg_catalog.pg_stat_database d) as connections,
       (
           select pg_catalog.age(d.datfrozenxid)::bigint
           from pg_catalog.pg_database d
           where d.datname = pg_catalog.current_database()
       ) as xid_age
