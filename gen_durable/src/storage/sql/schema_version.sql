-- The version of the schema.
select max(version) from gen_durable.migrations
