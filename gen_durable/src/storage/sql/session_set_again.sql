-- Sets what session_settings.sql found, after reset_step.sql.
--
-- $1 text[]: the names of the settings
-- $2 text[]: their values
select pg_catalog.count(pg_catalog.set_config(s.name, s.setting, false))
from rows from (unnest($1::text[], $2::text[])) as s (name, setting)
