-- Ends the pause of a queue, a machine, or a step of a machine, and writes that into the audit.
-- Calls of operators run it.
--
-- Invariant: it waits for the transactions that mark rows of the scope (block_paused.sql), as they
-- have locked the pause. After its commit no further row is marked, and engines free those that
-- are (unblock_paused.sql).
--
-- $1 text: the queue; null if a machine is resumed
-- $2 text: the machine, or null
-- $3 text: its step; null for the pause of the whole machine
-- $4 text: the name of the operator; null for the session's role
-- $5 text: the reason, or null
-- $6 text: how long the statement waits for a lock; null leaves the transaction's own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout, as in cancel.sql.
    select pg_catalog.set_config('lock_timeout', $6::text, true) from (select) as one
    where $6::text is not null
),
resumed as (
    delete from gen_durable.pauses p
    where coalesce(p.queue, '') = coalesce($1::text, '')
      and coalesce(p.fsm, '') = coalesce($2::text, '')
      and coalesce(p.step, '') = coalesce($3::text, '')
      and coalesce(p.instance_id, 0) = 0
      and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    returning p.id
),
noted as (
    -- 2. The audit.
    insert into gen_durable.audit (actor, action, reason, fsm, step, queue)
    select coalesce($4::text, session_user), 'resume', $5::text, $2::text, $3::text, $1::text
    from resumed r
)
-- 3. True if the scope was paused.
select exists (select from resumed) as resumed
