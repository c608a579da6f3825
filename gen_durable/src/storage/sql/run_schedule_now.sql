-- Asks for a run of a schedule now, and writes that into the audit. Calls of operators run it. An
-- engine inserts the instance.
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
asked as (
    -- 2. A run that was asked for and has not begun stands for this one too.
    update gen_durable.schedules s
    set asked_at = coalesce(s.asked_at, gen_durable.now()),
        revision = s.revision + 1
    where s.name = $1::text and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    returning s.fsm
),
noted as (
    -- 3. The audit.
    insert into gen_durable.audit (actor, action, reason, fsm, schedule)
    select coalesce($2::text, session_user), 'run_now', $3::text, a.fsm, $1::text
    from asked a
)
-- 4. The deed: asked; undeclared, if no living worker declares the schedule, so that the run
--    waits for one; or unknown.
select case
    when not exists (select from asked) then 'unknown'
    when exists (
        select from gen_durable.declarations d
        join gen_durable.workers w on w.id = d.worker
        where d.kind = 'schedule' and d.name = $1::text and w.lease_expires_at > gen_durable.now()
    ) then 'asked'
    else 'undeclared'
end as deed
