-- Sets the bounds of a limit in place of those that programs declare, and writes that into the
-- audit. Calls of operators run it.
--
-- Invariant: it changes the limit's row alone. Engines that admit runs do not wait for it, however
-- long its transaction stays open, and go by the new bounds once it has committed.
--
-- $1 text:   the limit
-- $2 int:    the runs at once; null bounds nothing
-- $3 int:    the starts in a period, or null
-- $4 bigint: the period in microseconds, or null
-- $5 int:    the starts of a burst, or null
-- $6 text:   the name of the operator; null for the session's role
-- $7 text:   the reason, or null
-- $8 text:   how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $8::text, true) from (select) as one
    where $8::text is not null
),
changed as (
    update gen_durable.limits l
    set set_at_once = $2::int,
        set_starts = $3::int,
        set_period = $4::bigint,
        set_burst = $5::int,
        set_at = gen_durable.now(),
        set_by = coalesce($6::text, session_user),
        set_reason = $7::text,
        revision = l.revision + 1
    where l.name = $1::text and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    returning l.name
),
noted as (
    -- 2. The audit.
    insert into gen_durable.audit (actor, action, reason, limit_name)
    select coalesce($6::text, session_user), 'set_limit', $7::text, c.name
    from changed c
)
-- 3. The deed: set; or unknown.
select case when exists (select from changed) then 'set' else 'unknown' end as deed
