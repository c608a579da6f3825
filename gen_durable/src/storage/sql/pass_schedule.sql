-- Notes what an engine has done about a schedule that is due. It has locked the row
-- (lock_schedule.sql), and the same transaction inserts the instances.
--
-- All times are in microseconds since 1970.
--
-- $1 text:    the name
-- $2 bigint:  the next tick, or null
-- $3 bigint:  the latest tick that was dealt with
-- $4 bigint[]: the ranges of skipped ticks, each by its beginning and its end
-- $5 bigint:  the end of the last of them
-- $6 bigint:  the tick that fired last, or null
-- $7 bigint:  its instance, or null
-- $8 bigint:  the tick that waits, or null
-- $9 bigint:  the time in microseconds until the next look at the last instance, while one waits
-- $10 text:   the error of the last tick that could not insert its instance; null if there was none
-- $11 bool:   true if the pause goes on
update gen_durable.schedules s
set next_at = timestamptz 'epoch' + $2::bigint * interval '1 microsecond',
    passed_at = timestamptz 'epoch' + $3::bigint * interval '1 microsecond',
    skipped = $4::bigint[],
    skipped_to = timestamptz 'epoch' + $5::bigint * interval '1 microsecond',
    last_at = timestamptz 'epoch' + $6::bigint * interval '1 microsecond',
    last_id = $7::bigint,
    waiting_at = timestamptz 'epoch' + $8::bigint * interval '1 microsecond',
    look_at = gen_durable.now() + $9::bigint * interval '1 microsecond',
    last_error = coalesce($10::text, s.last_error),
    failed_at = case when $10::text is null then s.failed_at else gen_durable.now() end,
    -- The engine has seen what an operator asked for: nothing has changed since.
    asked_at = null,
    paused_at = case when $11::bool then s.paused_at end,
    paused_until = case when $11::bool then s.paused_until end,
    paused_by = case when $11::bool then s.paused_by end,
    pause_reason = case when $11::bool then s.pause_reason end,
    revision = s.revision + 1
where s.name = $1::text
