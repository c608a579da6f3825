-- Makes four group roles, and grants each what it needs in this database. One is for applications
-- that insert, signal, wait and cancel, one for workers that run an engine, one for people who act
-- on instances, and one for people who look.
-- No login is a member until an administrator grants it.
--
-- Run it again after each migration: it takes back what the roles had, and grants what today's
-- statements need.

-- Roles belong to the cluster: another database may have made them, or may be making them right
-- now.
do $$
declare
    name text;
begin
    foreach name in array array[
        'gen_durable_app', 'gen_durable_worker', 'gen_durable_supervisor', 'gen_durable_operator'
    ] loop
        if not exists (select from pg_catalog.pg_roles r where r.rolname = name) then
            begin
                execute format('create role %I nologin', name);
            exception when duplicate_object or unique_violation then
                null;
            end;
        end if;
    end loop;
end
$$;

revoke all on schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_supervisor, gen_durable_operator;
revoke all on all tables in schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_supervisor, gen_durable_operator;
revoke all on all sequences in schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_supervisor, gen_durable_operator;
revoke all on all functions in schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_supervisor, gen_durable_operator;
grant usage on schema gen_durable to gen_durable_app, gen_durable_worker, gen_durable_supervisor, gen_durable_operator;
grant execute on function gen_durable.now(), gen_durable.clock()
    to gen_durable_app, gen_durable_worker, gen_durable_supervisor, gen_durable_operator;

-- The application and the worker: the schema's version, which a start and `up` read.
grant select (version, serves) on gen_durable.migrations to gen_durable_app, gen_durable_worker;

-- The application and the worker: insert and signal.
grant usage on sequence gen_durable.instances_id_seq to gen_durable_app, gen_durable_worker;
grant insert (
    id, fsm, fsm_version, step, state, queue, priority, eligible_at, partition_key, blocked_by, unique_key, unique_scope,
    report_to, trace_context
) on gen_durable.instances to gen_durable_app, gen_durable_worker;
grant insert (target_id, name, payload, dedup_key, trace_context) on gen_durable.signals to gen_durable_app, gen_durable_worker;
grant insert (target_id, dedup_key), select (target_id, dedup_key)
    on gen_durable.signal_keys to gen_durable_app, gen_durable_worker;

-- The same from any language. These functions run with the caller's rights, and look up what is
-- registered.
grant execute on function
    gen_durable.check_text(text, text, integer),
    gen_durable.check_not_reserved(text, text),
    gen_durable.check_value(text, json),
    gen_durable.insert(
        text, json, integer, text, text, integer, timestamptz, interval, text, text, text[], text, bigint, boolean,
        text
    ),
    gen_durable.signal(bigint, text, json, text, boolean, text),
    gen_durable.signal_by_key(text, text, text, json, text, boolean, text)
    to gen_durable_app, gen_durable_worker;
grant select (fsm, fsm_version, queue, initial, steps, signals, on_cancel) on gen_durable.machines to gen_durable_app;

-- The application: the columns that unique keys and signals look at, and those that a waiting call
-- is told. No state, no payload.
grant select (
    id, fsm, status, step, attempt, failures, result, last_error, queue, awaits, awaits_more, unique_guard, unique_scope,
    unique_released, trace_context
) on gen_durable.instances to gen_durable_app;
-- A signal wakes its target. Postgres cannot grant this update for parked rows alone.
grant update (status, awaits, awaits_more, wake_at, eligible_at, trace_context, unique_released, updated_at)
    on gen_durable.instances to gen_durable_app;
-- The application: cancels in its own transaction, with a row in the audit.
grant select (
    fsm_version, eligible_at, crashes, revision, blocked_by, paused_by, locked_by, partition_key, report_to, owes, cancelled_at
), update (
    step, attempt, failures, crashes, blocked_by, paused_by, locked_by, last_error, owes, cancelled_at, revision, finished_at
) on gen_durable.instances to gen_durable_app;
grant insert (actor, action, reason, instance_id, fsm)
    on gen_durable.audit to gen_durable_app, gen_durable_worker, gen_durable_supervisor;
grant insert (step, queue) on gen_durable.audit to gen_durable_worker, gen_durable_supervisor;

-- The worker: inserts that claim their rows.
grant insert (status, locked_by, revision) on gen_durable.instances to gen_durable_worker;

-- The worker: claims, commits, reaps and prunes. The machine, queue, priority and keys of an
-- instance stay as they were inserted.
grant select, delete on gen_durable.instances to gen_durable_worker;
grant update (
    fsm_version, step, status, state, result, last_error, awaits, awaits_more, eligible_at, attempt, failures, crashes, revision,
    blocked_by, paused_by, locked_by, unique_released, wake_at, owes, updated_at, finished_at,
    report_to, cancelled_at, trace_context
) on gen_durable.instances to gen_durable_worker;
grant select (ctid, id, target_id, name, payload, dedup_key, trace_context, inserted_at), delete on gen_durable.signals to gen_durable_worker;
grant insert (name, lease_expires_at, lease_ttl, queues, slots, fsms, fsm_versions, host, pid, library), update (lease_expires_at),
    select, delete
    on gen_durable.workers to gen_durable_worker;
grant select, insert (fsm, keep_for), update (keep_for), delete on gen_durable.retention to gen_durable_worker;

-- The worker: registers what its process runs.
grant insert (fsm, fsm_version, queue, initial, on_cancel, steps, signals, graph, history),
    select, update (queue, initial, on_cancel, steps, signals, graph, history, registered_at)
    on gen_durable.machines to gen_durable_worker;
grant insert (name), select on gen_durable.queues to gen_durable_worker;
grant insert (worker, kind, name, body, appeared_at), select (worker, kind, name, body, appeared_at)
    on gen_durable.declarations to gen_durable_worker;
-- The worker: shows the database's view in its metrics.
grant select, update (worker, lease_expires_at) on gen_durable.observer to gen_durable_worker;
-- The worker: fires schedules.
grant select, insert (name, body, fsm, next_at, passed_at, skipped, skipped_to, revision), update (
    body, fsm, next_at, passed_at, skipped, skipped_to, last_at, last_id, waiting_at, look_at, last_error, failed_at
) on gen_durable.schedules to gen_durable_worker;
grant execute on function gen_durable.holds(bigint)
    to gen_durable_worker, gen_durable_supervisor, gen_durable_operator;
grant select, insert (worker, counts_until), update (counts_until), delete on gen_durable.lost_workers
    to gen_durable_worker;
-- The worker: declares limits, admits runs and holds instances back.
grant select, insert (name, body, at_once, starts, period, burst),
    update (body, at_once, starts, period, burst, revision)
    on gen_durable.limits to gen_durable_worker;
grant select, insert (bucket, limit_name, wakes_at), delete, update (
    used_until, workers, held, said, admitted, let_in, let_in_at, weight, waits, wakes_at
) on gen_durable.limit_buckets to gen_durable_worker;
grant update (limited_by) on gen_durable.instances to gen_durable_worker;
-- The worker: writes the history, and reads what decides about it. The function alone changes the
-- schema, with the rights of its owner.
grant insert (
    day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state, started_at, ended_at, worker
), select, delete on gen_durable.history to gen_durable_worker;
grant execute on function gen_durable.keep_history(interval) to gen_durable_worker;

-- The worker: answers cancels, and acts on instances for its client.
grant select on gen_durable.audit to gen_durable_worker;
grant delete on gen_durable.signal_keys to gen_durable_worker;
-- The worker: reads and ends pauses, and pauses for its client.
grant insert (queue, fsm, step, instance_id, until, actor, reason), update (until, paused_at, actor, reason), select, delete
    on gen_durable.pauses to gen_durable_worker, gen_durable_supervisor;
-- Both: pause, resume and run schedules.
grant update (asked_at, paused_at, paused_until, paused_by, pause_reason, revision)
    on gen_durable.schedules to gen_durable_worker, gen_durable_supervisor;
grant insert (schedule, limit_name) on gen_durable.audit to gen_durable_worker, gen_durable_supervisor;
-- Both: set and reset the bounds of limits.
grant update (set_at_once, set_starts, set_period, set_burst, set_at, set_by, set_reason, revision)
    on gen_durable.limits to gen_durable_worker, gen_durable_supervisor;

-- The supervisor: reads everything, and acts on instances: cancel, kill, retry, run now, pause,
-- resume, fork, delete.
grant insert (fsm, fsm_version, step, state, queue, priority, partition_key) on gen_durable.instances
    to gen_durable_supervisor;
grant delete on gen_durable.instances, gen_durable.signals, gen_durable.signal_keys, gen_durable.history
    to gen_durable_supervisor;
grant update (
    fsm_version, step, status, state, result, last_error, awaits, awaits_more, eligible_at, attempt, failures, crashes,
    revision, blocked_by, paused_by, locked_by, unique_released, wake_at, report_to, owes, cancelled_at,
    trace_context, updated_at, finished_at
) on gen_durable.instances to gen_durable_supervisor;

-- The supervisor and the operator read everything. The operator changes nothing.
grant select on all tables in schema gen_durable to gen_durable_supervisor, gen_durable_operator;
