-- Finds timeouts that the server, the database or a role sets and that are shorter than an engine's
-- statements may take. The doctor runs it.
--
-- $1 bigint: the shortest time that is long enough, in milliseconds
-- $2 text:   the options with which this session was started, or null
--
-- role: the role that has the setting, or null
with said as (
    -- 1. The settings of databases and roles, as they were written.
    select r.rolname::text as role, pg_catalog.split_part(c.setting, '=', 1) as name,
           pg_catalog.split_part(c.setting, '=', 2) as value
    from pg_catalog.pg_db_role_setting s
    cross join lateral unnest(s.setconfig) as c (setting)
    left join pg_catalog.pg_roles r on r.oid = s.setrole
    where s.setdatabase = 0
       or s.setdatabase = (
           select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()
       )
),
server as (
    -- 2. The settings of the server, unless the database, this role or this session has its own.
    --    begin_look.sql has changed one for this transaction, so the reset value is read.
    select null::text as role, g.name, g.reset_val as value
    from pg_catalog.pg_settings g
    where not exists (
        select from said s where s.name = g.name and (s.role is null or s.role = current_user)
    )
      and coalesce(pg_catalog.strpos($2::text, g.name || '='), 0) = 0
)
-- 3. Those that are short. A number without a unit is in milliseconds.
select s.role, s.name, s.value
from (
    select a.role, a.name, a.value from said a
    union all
    select o.role, o.name, o.value from server o
) as s
where s.name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
  -- A role's setting may hold any text. Only a number with a known unit is cast, so the cast cannot
  -- fail. A value of 0 means no timeout.
  and case when s.value ~ '^[0-9.]+ *(us|ms|s|min|h|d)?$' and s.value ~ '[1-9]' then
          (case when s.value ~ '^[0-9.]+$' then s.value || 'ms' else s.value end)::interval
              < $1::bigint * interval '1 ms'
      end
order by s.name, s.role nulls first
