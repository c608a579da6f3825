-- Pauses a schedule, and writes that into the audit. Calls of operators run it.
--
-- Invariant: no engine fires a tick that it found due before, as the revision has changed.
--
-- $1 text:   the name
-- $2 bigint: the end of the pause, in microseconds since 1970; null until somebody ends it
-- $3 text:   the name of the operator; null for the session's role
-- $4 text:   the reason, or null
-- $5 text:   how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $5::text, true) from (select) as one
    where $5::text is not null
),
ends as materialized (
    -- 2. The end, which must not lie in the past.
    select p.until, coalesce(p.until <= gen_durable.now(), false) as past
    from (select timestamptz 'epoch' + $2::bigint * interval '1 microsecond' as until) as p
    where (select pg_catalog.count(*) from lock_timeout_set) >= 0
),
paused as (
    update gen_durable.schedules s
    set paused_at = gen_durable.now(),
        paused_until = e.until,
        paused_by = coalesce($3::text, session_user),
        pause_reason = $4::text,
        revision = s.revision + 1
    from ends e
    where s.name = $1::text and not e.past
    returning s.fsm
),
noted as (
    -- 3. The audit.
    insert into gen_durable.audit (actor, action, reason, fsm, schedule)
    select coalesce($3::text, session_user), 'pause', $4::text, p.fsm, $1::text
    from paused p
)
-- 4. The deed: past, if the end lies in the past; paused; or unknown.
select case when e.past then 'past' when exists (select from paused) then 'paused' else 'unknown' end as deed
from ends e
