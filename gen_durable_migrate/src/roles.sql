-- Makes three group roles, and grants each what it needs in this database. One is for applications
-- that insert, signal and wait, one for workers that run an engine, and one for operators who look.
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
    foreach name in array array['gen_durable_app', 'gen_durable_worker', 'gen_durable_operator'] loop
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

revoke all on schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_operator;
revoke all on all tables in schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_operator;
revoke all on all sequences in schema gen_durable from gen_durable_app, gen_durable_worker, gen_durable_operator;
grant usage on schema gen_durable to gen_durable_app, gen_durable_worker, gen_durable_operator;
grant execute on function gen_durable.now(), gen_durable.clock()
    to gen_durable_app, gen_durable_worker, gen_durable_operator;

-- The application and the worker: the schema's version, which a start and `up` read.
grant select (version, serves) on gen_durable.migrations to gen_durable_app, gen_durable_worker;

-- The application and the worker: insert and signal.
grant usage on sequence gen_durable.instances_id_seq to gen_durable_app, gen_durable_worker;
grant insert (
    id, fsm, fsm_version, step, state, queue, priority, eligible_at, partition_key, blocked_by, unique_key, unique_scope,
    report_to
) on gen_durable.instances to gen_durable_app, gen_durable_worker;
grant insert (target_id, name, payload, dedup_key) on gen_durable.signals to gen_durable_app, gen_durable_worker;
grant insert (target_id, dedup_key), select (target_id, dedup_key)
    on gen_durable.signal_keys to gen_durable_app, gen_durable_worker;

-- The application: the columns that unique keys and signals look at, and those that a waiting call
-- is told. No state, no payload, no partition key.
grant select (
    id, fsm, status, step, attempt, failures, result, last_error, queue, awaits, awaits_more, unique_guard, unique_scope,
    unique_released
) on gen_durable.instances to gen_durable_app;
-- A signal wakes its target. Postgres cannot grant this update for parked rows alone.
grant update (status, awaits, awaits_more, wake_at, eligible_at, unique_released, updated_at)
    on gen_durable.instances to gen_durable_app;

-- The worker: inserts that claim their rows.
grant insert (status, locked_by, revision) on gen_durable.instances to gen_durable_worker;

-- The worker: claims, commits, reaps and prunes. The machine, queue, priority and keys of an
-- instance stay as they were inserted.
grant select, delete on gen_durable.instances to gen_durable_worker;
grant update (
    fsm_version, step, status, state, result, last_error, awaits, awaits_more, eligible_at, attempt, failures, crashes, revision,
    blocked_by, locked_by, unique_released, wake_at, owes, updated_at, finished_at
) on gen_durable.instances to gen_durable_worker;
grant select (ctid, id, target_id, name, payload), delete on gen_durable.signals to gen_durable_worker;
grant insert (name, lease_expires_at, queues), update (lease_expires_at),
    select (id, lease_expires_at, queues), delete
    on gen_durable.workers to gen_durable_worker;
grant select, insert (fsm, keep_for), update (keep_for), delete on gen_durable.retention to gen_durable_worker;

-- The worker: writes the history, and reads what decides about it. The function alone changes the
-- schema, with the rights of its owner.
grant insert (
    day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state, started_at, ended_at, worker
), select, delete on gen_durable.history to gen_durable_worker;
grant select (fsm, fsm_version, history) on gen_durable.machines to gen_durable_worker;
grant execute on function gen_durable.keep_history(interval) to gen_durable_worker;

-- The operator: reads everything, changes nothing.
grant select on all tables in schema gen_durable to gen_durable_operator;
