-- Writes schedules whose declaration has come into force. An engine runs it after
-- unsettled_schedules.sql.
--
-- Invariant: a row that has changed meanwhile stays as it is, and the engine looks again. Rows are
-- taken in the order of their names, so two engines cannot wait for each other in a circle.
--
-- All times are in microseconds since 1970.
--
-- $1 text[]:   the names
-- $2 text[]:   their declarations
-- $3 text[]:   the machines of their instances
-- $4 bigint[]: their next ticks, or null
-- $5 bigint[]: the latest ticks that were dealt with
-- $6 text[]:   the ranges of skipped ticks, each row's as a JSON array
-- $7 bigint[]: the ends of the last of them
-- $8 bigint[]: the revisions that they get: 0 for a new row, and otherwise one more than was seen
insert into gen_durable.schedules as s (
    name, body, fsm, next_at, passed_at, skipped, skipped_to, revision
)
select n.name, n.body, n.fsm,
       timestamptz 'epoch' + n.next_at * interval '1 microsecond',
       timestamptz 'epoch' + n.passed_at * interval '1 microsecond',
       array(select t.at::bigint from pg_catalog.json_array_elements_text(n.skipped::json) with ordinality as t (at, place) order by t.place),
       timestamptz 'epoch' + n.skipped_to * interval '1 microsecond',
       n.revision
from unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[]
) as n (name, body, fsm, next_at, passed_at, skipped, skipped_to, revision)
order by n.name collate "C"
on conflict (name) do update
set body = excluded.body,
    fsm = excluded.fsm,
    next_at = excluded.next_at,
    passed_at = excluded.passed_at,
    skipped = excluded.skipped,
    skipped_to = excluded.skipped_to,
    revision = excluded.revision
where s.revision = excluded.revision - 1
