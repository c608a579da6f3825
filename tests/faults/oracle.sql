-- The oracle's tables, and the triggers that fill them.
create schema chaos;

-- The order of all that is recorded. Clocks jump, and a sequence does not.
create sequence chaos.ticks;

-- Returns a number for this start of Postgres. A stop loses all that was not durable, ticks too.
-- Postgres gives these ticks out again.
create function chaos.server() returns bigint stable language sql
    return (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint;

-- The books of the machine `booker`, whose steps write them in their own transactions.
create table chaos.book (instance bigint not null, n bigint not null);
create table chaos.parcels (instance bigint not null);
-- The legs of trips, and the actions on them. A tick says something only beside those of one
-- server.
create table chaos.legs (
    tick     bigint not null default nextval('chaos.ticks'),
    server   bigint not null default chaos.server(),
    instance bigint not null,
    kind     text not null
);
create table chaos.actions (
    tick     bigint not null default nextval('chaos.ticks'),
    server   bigint not null default chaos.server(),
    instance bigint not null,
    action   text not null
);
create table chaos.accounts (id bigint primary key, balance bigint not null);
insert into chaos.accounts select n, 0 from generate_series(0, 15) as n;

create table chaos.edges (fsm text, from_step text, to_step text);
create table chaos.ends (fsm text, step text, status text);

-- The committed transitions of instances. The first one of an instance has null in `old_...`.
create table chaos.log (
    seq           bigint primary key default nextval('chaos.ticks'),
    id            bigint not null,
    fsm           text not null,
    partition_key text,
    old_status    text,
    new_status    text not null,
    old_step      text,
    new_step      text not null,
    old_revision  bigint,
    new_revision  bigint not null,
    old_attempt   integer,
    new_attempt   integer not null,
    old_n         bigint,
    new_n         bigint,
    locked_by     bigint,
    -- True if a reap made the transition, as the worker was lost.
    reaped        boolean not null default false,
    -- The run that had this outcome, if it was recorded, and the tick at which its code ended.
    ran           bigint,
    ran_until     bigint,
    at            timestamptz not null default clock_timestamp()
);
create index on chaos.log (id, seq);
create index on chaos.log (partition_key, seq) where partition_key is not null;

-- The runs of steps' code. Each step writes its run itself, when it begins.
create table chaos.runs (
    began   bigint primary key default nextval('chaos.ticks'),
    id      bigint not null,
    step    text not null,
    n       bigint not null,
    attempt bigint not null,
    pid     bigint not null,
    -- The last entry of its instance in the log that was committed by then.
    saw     bigint
);

create table chaos.signals (
    op        text not null,
    signal_id bigint not null,
    target_id bigint not null,
    name      text not null,
    dedup_key text
);

create function chaos.record_inserted() returns trigger language plpgsql as $$
begin
    insert into chaos.log (
        id, fsm, partition_key, new_status, new_step, new_revision, new_attempt, new_n, locked_by
    ) values (
        new.id, new.fsm, new.partition_key, new.status, new.step, new.revision, new.attempt,
        (new.state ->> 'n')::bigint, new.locked_by
    );
    return null;
end $$;

create function chaos.record_updated() returns trigger language plpgsql as $$
declare
    -- A transition that changes no state still has the run of an earlier outcome in it.
    run jsonb := nullif((new.state -> 'run')::jsonb, (old.state -> 'run')::jsonb);
begin
    if (run ->> 'server')::bigint is distinct from chaos.server() then
        run := null;
    end if;
    insert into chaos.log (
        id, fsm, partition_key, old_status, new_status, old_step, new_step, old_revision,
        new_revision, old_attempt, new_attempt, old_n, new_n, locked_by, reaped, ran, ran_until
    ) values (
        new.id, new.fsm, new.partition_key, old.status, new.status, old.step, new.step,
        old.revision, new.revision, old.attempt, new.attempt, (old.state ->> 'n')::bigint,
        (new.state ->> 'n')::bigint, new.locked_by, new.crashes > old.crashes,
        (run ->> 'began')::bigint, (run ->> 'ended')::bigint
    );
    return null;
end $$;

create function chaos.record_signal() returns trigger language plpgsql as $$
declare
    one gen_durable.signals := case when tg_op = 'INSERT' then new else old end;
begin
    insert into chaos.signals values (tg_op, one.id, one.target_id, one.name, one.dedup_key);
    return null;
end $$;

create function chaos.record_action() returns trigger language plpgsql as $$
begin
    insert into chaos.actions (instance, action) values (new.instance_id, new.action);
    return null;
end $$;

create trigger record_action after insert on gen_durable.audit
    for each row when (new.instance_id is not null) execute function chaos.record_action();
create trigger record_inserted after insert on gen_durable.instances
    for each row execute function chaos.record_inserted();
-- No transition: a row that is only blocked or unblocked, as its partition key is busy or free.
create trigger record_updated after update on gen_durable.instances
    for each row
    when ((old.status, old.step, old.revision, old.attempt, old.state::text)
          is distinct from (new.status, new.step, new.revision, new.attempt, new.state::text))
    execute function chaos.record_updated();
create trigger record_signal after insert or delete on gen_durable.signals
    for each row execute function chaos.record_signal();
