-- Moves the time of a test's database.
--
-- $1 bigint: the time, in microseconds since 1970
select gen_durable.lab_set_clock(timestamptz 'epoch' + $1::bigint * interval '1 microsecond')
