-- Reads the version of the schema, and the oldest engine that all its migrations serve. An engine
-- runs it at its start. Both are null if no migration was applied.
select pg_catalog.max(version) as version, pg_catalog.max(serves) as serves
from gen_durable.migrations
