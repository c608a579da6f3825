-- Lists the recorded runs of an instance, the newest first. Looks at an instance run it.
--
-- Invariant: the answer is bounded in rows and in bytes. It has no state, and of an error its
-- beginning.
--
-- $1 bigint:  the instance
-- $2 bigint:  the entry before which to look
-- $3 bigint:  the most entries to list
-- $4 integer: the most characters of an error that are listed
--
-- `state_size` is in bytes, as they lie in the table, and null without a state. Times are in
-- microseconds since 1970.
select h.id, h.fsm, h.fsm_version, h.step, h.attempt, h.outcome, h.next_step,
       pg_catalog.left(h.error, $4::integer) as error,
       coalesce(pg_catalog.length(h.error) > $4::integer, false) as error_cut,
       pg_catalog.pg_column_size(h.state) as state_size,
       (extract(epoch from h.started_at) * 1000000)::bigint as started_at,
       (extract(epoch from h.ended_at) * 1000000)::bigint as ended_at,
       h.worker
from gen_durable.history h
where h.instance_id = $1::bigint and h.id < $2::bigint
order by h.id desc
limit $3::bigint
