-- Applies the outcome of a step in the step's own transaction: writes it into its row, and deletes
-- the signals that it consumed.
--
-- Invariant: the outcome is applied only if its worker still owns the row (same worker, still
-- executing, same revision), and only in the transaction that the engine began for the step, at the
-- same level. Otherwise the answer is false, and the engine rolls the step's own rows back.
--
-- It is commit.sql for one outcome. The session plans it with its own settings, and this text takes
-- the planner little time. It waits for the row's lock, for as long as the step's transaction may.
-- Unlike commit.sql, it does not read new signals: the look must come after the lock, in a snapshot
-- of its own.
--
-- $1 bigint:   the instance
-- $2 bigint:   its worker
-- $3 bigint:   the revision that the worker holds
-- $4 text:     the new status; a failure ends an instance that was cancelled as cancelled
-- $5 text:     the next step; null keeps the step
-- $6 text:     the new state, as JSON; null keeps the state
-- $7 text:     the result, as JSON, or null
-- $8 text:     the error to record; null keeps the last one
-- $9 int:      the attempt; null for a row that is given back without a run
-- $10 bigint:  the microseconds until it may run; null keeps its time
-- $11 text:    the names of the awaited signals, as in commit.sql
-- $12 bigint:  the microseconds until its park times out, or null
-- $13 int:     the version of an upgraded instance, or null
-- $14 int:     the failures in a row; null keeps them
-- $15 bigint[]: the consumed signals
-- $16 text:    the isolation level at which the transaction began
-- $17 boolean: true if the outcome ends the instance, and its report is still to be delivered
with committed as (
    -- 1. The row. It is looked up by its primary key: `status || ''` fits no other index, and the
    --    `case` hides from the planner that `locked_by` is not null.
    update gen_durable.instances i
    set status = case
            when $4::text = 'failed' and i.cancelled_at is not null then 'cancelled' else $4::text
        end,
        fsm_version = coalesce($13::int, i.fsm_version),
        step = coalesce($5::text, i.step),
        state = coalesce($6::text::json, i.state),
        result = $7::text::json,
        last_error = coalesce($8::text, i.last_error),
        attempt = coalesce($9::int, i.attempt),
        failures = coalesce($14::int, i.failures),
        crashes = case when $9::int is null then i.crashes else 0 end,
        revision = i.revision + 1,
        locked_by = case when $4::text = 'executing' then i.locked_by end,
        awaits = case
            when $9::int is null then i.awaits
            else pg_catalog.string_to_array($11::text, pg_catalog.chr(31))
        end,
        eligible_at = coalesce(gen_durable.now() + $10::bigint * interval '1 microsecond', i.eligible_at),
        wake_at = gen_durable.now() + $12::bigint * interval '1 microsecond',
        unique_released = i.unique_released or case
            when $4::text = 'failed' and i.cancelled_at is not null then 'cancelled' else $4::text
        end <> all (i.unique_scope),
        finished_at = case when $4::text in ('done', 'failed') then gen_durable.now() end,
        owes = case when $17::boolean then coalesce(i.owes, 0) | 1 else i.owes end,
        updated_at = gen_durable.now()
    where i.id = $1::bigint
      and i.status || '' = 'executing' and i.revision = $3::bigint
      and case when i.locked_by = $2::bigint then true else false end
      and pg_catalog.current_setting('gen_durable.step', true) = 'open'
      and pg_catalog.current_setting('transaction_isolation') = $16::text
    returning i.id
),
consumed as (
    -- 2. The signals that the outcome consumed, deleted if it was applied.
    delete from gen_durable.signals s
    where s.target_id = (select c.id from committed c) and s.id = any ($15::bigint[])
)
-- 3. True if the outcome was applied.
select pg_catalog.count(*) = 1 from committed
