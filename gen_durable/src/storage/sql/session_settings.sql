-- Tells what a new connection has set for its session: a hook of the application's pool may have.
-- reset_step.sql would undo that, and session_set_again.sql does it again.
select pg_catalog.array_agg(s.name), pg_catalog.array_agg(s.setting)
from (
    select s.name, pg_catalog.current_setting(s.name) as setting
    from pg_catalog.pg_settings s
    where s.source = 'session' and s.context in ('user', 'superuser')
      and s.name <> 'default_transaction_read_only'
    union all
    -- After the others, which the role may not be allowed to set.
    select 'role', pg_catalog.current_setting('role')
    where pg_catalog.current_setting('role') <> 'none'
) as s
