-- Ends the pause of a schedule, and writes that into the audit. Calls of operators run it.
--
-- $1 text: the name
-- $2 text: the name of the operator; null for the session's role
-- $3 text: the reason, or null
-- $4 text: how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $4::text, true) from (select) as one
    where $4::text is not null
),
resumed as (
    -- 2. A pause whose time is over counts no more.
    update gen_durable.schedules s
    set paused_at = null, paused_until = null, paused_by = null, pause_reason = null,
        revision = s.revision + 1
    where s.name = $1::text and coalesce(s.paused_until > gen_durable.now(), s.paused_at is not null)
      and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    returning s.fsm
),
noted as (
    -- 3. The audit.
    insert into gen_durable.audit (actor, action, reason, fsm, schedule)
    select coalesce($2::text, session_user), 'resume', $3::text, r.fsm, $1::text
    from resumed r
)
-- 4. The deed: resumed; not_paused; or unknown.
select case
    when exists (select from resumed) then 'resumed'
    when exists (select from gen_durable.schedules s where s.name = $1::text) then 'not_paused'
    else 'unknown'
end as deed
