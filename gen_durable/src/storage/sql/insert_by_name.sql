-- Inserts an instance of a machine that the caller knows by name. The function checks the values
-- against what engines have registered, and announces the row. Calls of tools run it.
--
-- Invariant: nothing is inserted if another instance holds the unique key. The answer is null then.
--
--  $1 text:     the machine
--  $2 text:     the state, as JSON
--  $3 integer:  the version; null for the newest that is registered
--  $4 text:     the step; null for the version's initial step
--  $5 text:     the queue; null for the version's queue
--  $6 integer:  the priority
--  $7 bigint:   the time from which it may run, in microseconds since 1970; null for none
--  $8 bigint:   the delay, in microseconds; null for none
--  $9 text:     the partition key, or null
-- $10 text:     the unique key, or null
-- $11 bigint:   the instance that hears of its end, or null
-- $12 text:     the trace context, or null
select gen_durable.insert(
    machine       => $1::text,
    state         => $2::json,
    version       => $3::integer,
    step          => $4::text,
    queue         => $5::text,
    priority      => $6::integer,
    run_at        => timestamptz 'epoch' + $7::bigint * interval '1 microsecond',
    delay         => $8::bigint * interval '1 microsecond',
    partition_key => $9::text,
    unique_key    => $10::text,
    if_taken      => 'null',
    report_to     => $11::bigint,
    trace_context => $12::text
) as id
