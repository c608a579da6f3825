-- The version of the schema.
select pg_catalog.max(version) from gen_durable.migrations
