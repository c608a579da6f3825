-- Tells if the inbox of an instance has a signal that it awaits and its step had not seen. The
-- engine asks after commit_step.sql, for an instance that parks, and wakes it if so. Together they
-- are wake_parked.sql for one row.
--
-- Invariant: the row is locked, and this snapshot is younger than that lock. A delivery either
-- committed before, and its signal is seen here, or it comes after, and finds the row parked.
-- Above `read committed` the step's own snapshot is older, and another connection runs this
-- statement too.
--
-- $1 bigint:   the instance
-- $2 text[]:   the awaited names
-- $3 bigint[]: the signals of these names that the step had seen
select exists (
    select from gen_durable.signals s
    where s.target_id = $1::bigint and s.name = any ($2::text[])
      and case when s.id in (select pg_catalog.unnest($3::bigint[])) then false else true end
)
