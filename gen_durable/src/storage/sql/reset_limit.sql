-- Ends what an operator has set of a limit, so that the bounds of its declaration are in force
-- again, and writes that into the audit. Calls of operators run it.
--
-- Invariant: it changes the limit's row alone, as set_limit.sql.
--
-- $1 text: the limit
-- $2 text: the name of the operator; null for the session's role
-- $3 text: the reason, or null
-- $4 text: how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $4::text, true) from (select) as one
    where $4::text is not null
),
changed as (
    update gen_durable.limits l
    set set_at_once = null, set_starts = null, set_period = null, set_burst = null,
        set_at = null, set_by = null, set_reason = null,
        revision = l.revision + 1
    where l.name = $1::text and l.set_at is not null
      and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    returning l.name
),
noted as (
    -- 2. The audit.
    insert into gen_durable.audit (actor, action, reason, limit_name)
    select coalesce($2::text, session_user), 'reset_limit', $3::text, c.name
    from changed c
)
-- 3. The deed: reset; not_set; or unknown.
select case
    when exists (select from changed) then 'reset'
    when exists (select from gen_durable.limits l where l.name = $1::text) then 'not_set'
    else 'unknown'
end as deed
