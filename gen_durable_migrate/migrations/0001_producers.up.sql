
-- For producers in any language: `insert` and `signal` do what the calls of the Rust library do, in
-- the caller's transaction. They run with the caller's rights. `silent` inserts and signals without
-- a notification, as `silent()` does: an engine's poll finds the work.

-- Refuses a key or a name that is empty or too long. `keys.rs` has the same limits, in bytes of
-- UTF-8.
create function gen_durable.check_text(what text, value text, bytes_max integer) returns void
    language plpgsql immutable
    set search_path = ''
as $$
begin
    if value = '' then
        raise exception '% is empty', what using
            errcode = 'invalid_parameter_value',
            hint = 'Every caller that forgets it would share the empty one. Leave it out, or fill it.';
    elsif octet_length(convert_to(value, 'UTF8')) > bytes_max then
        raise exception '% has % bytes, over the limit of %',
            what, octet_length(convert_to(value, 'UTF8')), bytes_max using
            errcode = 'invalid_parameter_value';
    end if;
end
$$;

-- Refuses the reserved beginning of the engine's reports. `keys.rs` has the same.
create function gen_durable.check_not_reserved(what text, value text) returns void
    language plpgsql immutable
    set search_path = ''
as $$
begin
    if value like 'ended(%' then
        raise exception '% begins with `ended(`, which is reserved for reports of ends', what using
            errcode = 'invalid_parameter_value';
    end if;
end
$$;

-- Refuses a value that is missing, is larger than 8 MiB, is nested deeper than 127 levels, or
-- cannot be cast to `jsonb`. `value.rs` refuses these too, and numbers beyond the range of an
-- `f64`.
create function gen_durable.check_value(what text, value json) returns void
    language plpgsql immutable
    set search_path = ''
as $$
declare
    bytes constant bigint := octet_length(convert_to(value::text, 'UTF8'));
    brackets text;
begin
    if value is null then
        raise exception '% is null', what using
            errcode = 'null_value_not_allowed',
            hint = 'A machine without a state takes the JSON value null: ''null''.';
    elsif bytes > 8388608 then
        raise exception '% has % bytes, over the limit of 8388608', what, bytes using
            errcode = 'invalid_parameter_value',
            hint = 'Store large data elsewhere, and keep a reference.';
    end if;
    -- A NUL character and half of a surrogate pair are refused here.
    perform value::jsonb;
    -- Most values have fewer brackets than may nest.
    if length(value::text) - length(translate(value::text, '[{', '')) > 127 then
        -- The brackets outside of strings. Each round removes the innermost pairs.
        brackets := regexp_replace(value::text, '"([^"\\]|\\.)*"|[^][{}"]', '', 'g');
        brackets := translate(brackets, '{}', '[]');
        for round in 1..127 loop
            exit when brackets = '';
            brackets := replace(brackets, '[]', '');
        end loop;
        if brackets <> '' then
            raise exception '% is nested deeper than 127 levels', what using
                errcode = 'invalid_parameter_value';
        end if;
    end if;
end
$$;

-- Inserts an instance, and returns its id.
--
--   machine:       its machine, which an engine has registered
--   state:         its state, which is stored as it is written
--   version:       the version of the machine; by default the newest that an engine has registered
--   step:          the step that it begins with; by default the version's initial step
--   queue:         by default the version's queue
--   priority:      lower runs first
--   run_at, delay: the time from which it may run, or the time from now until then
--   partition_key: it never runs at the same time as another instance of this key
--   unique_key:    one instance of the machine holds this key at a time
--   unique_while:  the statuses in which it holds the unique key; by default all live ones
--   if_taken:      what is done if another instance holds the unique key: `error` raises
--                  `unique_violation`, with the holder's id in the detail; `holder` returns that
--                  id; `null` returns null
--   report_to:     the instance that hears of its end
--   silent:        true sends no notification, so that the work waits for an engine's poll
--   trace_context: the context of the caller's span, as the workers' hook reads it; for
--                  OpenTelemetry the `traceparent`, and a `tracestate` on a line of its own. A text
--                  that cannot be one counts as none.
create function gen_durable.insert(
    machine       text,
    state         json,
    version       integer default null,
    step          text default null,
    queue         text default null,
    priority      integer default 0,
    run_at        timestamptz default null,
    delay         interval default null,
    partition_key text default null,
    unique_key    text default null,
    unique_while  text[] default null,
    if_taken      text default 'error',
    report_to     bigint default null,
    silent        boolean default false,
    trace_context text default null
) returns bigint
    language plpgsql volatile
    set search_path = ''
as $$
declare
    -- The longest delay that the library stores: a hundred years.
    century    constant interval := interval '36600 days';
    -- A row that is due within this time needs a notification. A later one does not: each engine
    -- polls within this time by itself. It is 1.25 times the default poll interval.
    next_look  constant interval := interval '6.25 seconds';
    statuses   constant text[] := '{runnable,executing,awaiting_signal,done,failed,cancelled}';
    -- The rules of trace.rs.
    context    constant text := case
        when octet_length(convert_to(trace_context, 'UTF8')) between 1 and 640
             and trace_context not like '-%'
        then trace_context
    end;
    scope      text[] := unique_while;
    registered record;
    receiver   text;
    due        timestamptz;
    found_id   bigint;
begin
    -- 1. The machine, as an engine has registered it.
    select m.fsm_version, m.queue, m.initial, m.steps into registered
    from gen_durable.machines m
    where m.fsm = machine and (version is null or m.fsm_version = version)
    order by m.fsm_version desc
    limit 1;
    if not found then
        raise exception 'no engine has registered the machine `%`%',
            machine, coalesce(' in version ' || version, '') using
            errcode = 'undefined_object',
            hint = 'An engine registers its machines when it starts. Registered are: '
                || coalesce((
                       select string_agg(m.fsm || ' version ' || m.fsm_version, ', '
                                         order by m.fsm, m.fsm_version)
                       from gen_durable.machines m
                   ), 'none') || '.';
    end if;
    if step <> all (registered.steps) then
        raise exception 'machine `%` version % has no step `%`',
            machine, registered.fsm_version, step using
            errcode = 'undefined_object',
            hint = 'Its steps are: ' || array_to_string(registered.steps, ', ') || '.';
    end if;

    -- 2. The options.
    perform gen_durable.check_value('state', state);
    perform gen_durable.check_text('queue', queue, 255);
    perform gen_durable.check_text('partition_key', partition_key, 1024);
    perform gen_durable.check_text('unique_key', unique_key, 1024);
    if priority is null or priority not between -32768 and 32767 then
        raise exception 'priority is %, and must be between -32768 and 32767',
            coalesce(priority::text, 'null') using errcode = 'invalid_parameter_value';
    elsif run_at is not null and delay is not null then
        raise exception 'run_at and delay are both given' using
            errcode = 'invalid_parameter_value',
            hint = 'Give one of them.';
    elsif delay < interval '0' then
        raise exception 'delay is negative' using errcode = 'invalid_parameter_value';
    elsif if_taken is null or if_taken not in ('error', 'holder', 'null') then
        raise exception 'if_taken is `%`, and must be `error`, `holder` or `null`', if_taken using
            errcode = 'invalid_parameter_value';
    elsif unique_key is null and scope is not null then
        raise exception 'unique_while is given, and no unique_key' using
            errcode = 'invalid_parameter_value';
    elsif unique_key is not null then
        scope := coalesce(scope, '{runnable,executing,awaiting_signal}');
        if not scope <@ statuses then
            raise exception 'unique_while names a status that there is not' using
                errcode = 'invalid_parameter_value',
                hint = 'The statuses are: ' || array_to_string(statuses, ', ') || '.';
        elsif 'runnable' <> all (scope) then
            raise exception 'unique_while lacks `runnable`, the status in which an instance begins'
                using errcode = 'invalid_parameter_value';
        end if;
    end if;
    if report_to is not null then
        select i.fsm into receiver from gen_durable.instances i where i.id = insert.report_to;
        if not found then
            raise exception 'report_to: there is no instance %', report_to using
                errcode = 'no_data_found';
        elsif not exists (
            select from gen_durable.machines m
            where m.fsm = receiver and 'ended(' || machine || ')' = any (m.signals)
        ) then
            raise exception 'report_to: instance % is of the machine `%`, which does not accept `Ended` of `%`',
                report_to, receiver, machine using errcode = 'undefined_object';
        end if;
    end if;
    due := case
        when run_at is not null
        then greatest(least(run_at, '9999-12-31 23:59:59+00'), 'epoch'::timestamptz - century)
        when delay >= century then gen_durable.now() + century
        else gen_durable.now() + coalesce(delay, interval '0')
    end;

    -- 3. The row, as insert.sql writes it. If the key is taken, the holder is looked up. The holder
    --    may have given the key back by then, and the insert is tried again.
    for try in 1..100 loop
        insert into gen_durable.instances as i (
            fsm, fsm_version, step, state, queue, priority, eligible_at, partition_key,
            unique_key, unique_scope, report_to, trace_context
        )
        values (
            machine, registered.fsm_version, coalesce(step, registered.initial), state,
            coalesce(queue, registered.queue), priority, due, partition_key, unique_key, scope,
            report_to, context
        )
        on conflict (fsm, unique_guard) where unique_guard is not null do nothing
        returning i.id into found_id;
        if found then
            if not coalesce(silent, false)
               and coalesce(delay, interval '0') <= next_look
               and coalesce(run_at <= gen_durable.clock() + next_look, true)
            then
                perform pg_notify('gen_durable', coalesce(queue, registered.queue));
            end if;
            return found_id;
        end if;
        select i.id into found_id
        from gen_durable.instances i
        where i.fsm = machine and i.unique_guard = insert.unique_key;
        if found then
            if if_taken = 'error' then
                raise exception 'an instance of `%` holds this unique key already: %',
                    machine, found_id using
                    errcode = 'unique_violation',
                    detail = found_id::text,
                    hint = 'With if_taken => ''holder'' the call returns the holder''s id.';
            end if;
            return case if_taken when 'holder' then found_id end;
        end if;
    end loop;
    raise exception 'a unique key changed hands too often' using errcode = 'serialization_failure';
end
$$;

-- Sends a signal to an instance. Returns `delivered`, or `duplicate` if the instance has accepted a
-- signal with this deduplication key before.
create function gen_durable.signal(
    id            bigint,
    name          text,
    payload       json,
    dedup_key     text default null,
    silent        boolean default false,
    trace_context text default null
) returns text
    language plpgsql volatile
    set search_path = ''
as $$
declare
    -- The rules of trace.rs.
    context     constant text := case
        when octet_length(convert_to(trace_context, 'UTF8')) between 1 and 640
             and trace_context not like '-%'
        then trace_context
    end;
    target      record;
    more        integer;
    woken_queue text;
begin
    -- 1. The checks of keys.rs and value.rs.
    if name is null then
        raise exception 'the signal has no name' using errcode = 'null_value_not_allowed';
    end if;
    perform gen_durable.check_not_reserved('name', name);
    perform gen_durable.check_text('name', name, 255);
    perform gen_durable.check_not_reserved('dedup_key', dedup_key);
    perform gen_durable.check_text('dedup_key', dedup_key, 1024);
    perform gen_durable.check_value('payload', payload);

    -- 2. The target, locked, as deliver.sql locks it. It cannot end, park or be claimed between
    --    this look and the end of the transaction.
    select i.fsm, i.status, i.awaits, i.awaits_more into target
    from gen_durable.instances i
    where i.id = signal.id
    for no key update;
    if not found then
        raise exception 'there is no instance %', id using errcode = 'no_data_found';
    elsif not exists (
        select from gen_durable.machines m where m.fsm = target.fsm and name = any (m.signals)
    ) then
        raise exception 'machine `%` has no signal `%`', target.fsm, name using
            errcode = 'undefined_object',
            hint = 'Its signals are: ' || coalesce((
                select string_agg(distinct s.name, ', ' order by s.name)
                from gen_durable.machines m, unnest(m.signals) as s (name)
                where m.fsm = target.fsm and s.name not like 'ended(%'
            ), 'none') || '.';
    elsif target.status not in ('runnable', 'executing', 'awaiting_signal') then
        raise exception 'instance % has ended and is %', id, target.status using
            errcode = 'object_not_in_prerequisite_state';
    end if;

    -- 3. The deduplication key, and the signal.
    if dedup_key is not null then
        insert into gen_durable.signal_keys (target_id, dedup_key)
        values (signal.id, signal.dedup_key)
        on conflict do nothing;
        if not found then
            return 'duplicate';
        end if;
    end if;
    insert into gen_durable.signals (target_id, name, payload, dedup_key, trace_context)
    values (signal.id, signal.name, signal.payload, signal.dedup_key, context);

    -- 4. The target, if it is parked for the signal: it wakes with the last one that it waits for.
    if target.status = 'awaiting_signal' and name = any (target.awaits) then
        more := coalesce(target.awaits_more, 1) - 1;
        if more > 0 then
            update gen_durable.instances i
            set awaits_more = more,
                updated_at = gen_durable.now()
            where i.id = signal.id;
        else
            update gen_durable.instances i
            set status = 'runnable',
                awaits = null,
                awaits_more = null,
                wake_at = null,
                eligible_at = gen_durable.now(),
                unique_released = i.unique_released or 'runnable' <> all (i.unique_scope),
                trace_context = coalesce(context, '-' || ltrim(i.trace_context, '-')),
                updated_at = gen_durable.now()
            where i.id = signal.id
            returning i.queue into woken_queue;
            if not coalesce(silent, false) then
                perform pg_notify('gen_durable', woken_queue);
            end if;
        end if;
    end if;
    return 'delivered';
end
$$;

-- Sends a signal to the instance of a machine that holds a unique key, as `signal` does.
create function gen_durable.signal_by_key(
    machine       text,
    unique_key    text,
    name          text,
    payload       json,
    dedup_key     text default null,
    silent        boolean default false,
    trace_context text default null
) returns text
    language plpgsql volatile
    set search_path = ''
as $$
declare
    holder bigint;
begin
    perform gen_durable.check_text('unique_key', unique_key, 1024);
    -- A holder that was waited for may have given the key back, and another one may hold it now.
    for try in 1..100 loop
        select i.id into holder
        from gen_durable.instances i
        where i.fsm = machine and i.unique_guard = signal_by_key.unique_key
        for no key update;
        if found then
            return gen_durable.signal(holder, name, payload, dedup_key, silent, trace_context);
        end if;
        if not exists (
            select from gen_durable.instances i
            where i.fsm = machine and i.unique_guard = signal_by_key.unique_key
        ) then
            raise exception 'no instance of `%` holds this unique key', machine using
                errcode = 'no_data_found';
        end if;
    end loop;
    raise exception 'a unique key changed hands too often' using errcode = 'serialization_failure';
end
$$;

-- Roles are granted what they need: `roles.sql`.
revoke all on function
    gen_durable.check_text(text, text, integer),
    gen_durable.check_not_reserved(text, text),
    gen_durable.check_value(text, json),
    gen_durable.insert(
        text, json, integer, text, text, integer, timestamptz, interval, text, text, text[], text,
        bigint, boolean, text
    ),
    gen_durable.signal(bigint, text, json, text, boolean, text),
    gen_durable.signal_by_key(text, text, text, json, text, boolean, text)
from public;
