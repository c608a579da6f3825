-- The version of the schema, and the oldest engine that all its migrations serve.
select pg_catalog.max(version) as version, pg_catalog.max(serves) as serves
from gen_durable.migrations
