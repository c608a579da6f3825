-- Reads the newest entries of an instance's history, or one of them. The calls `history` and
-- `history_entry` run it.
--
-- Invariant: the entries of an instance come in the order in which they were committed.
--
-- $1 bigint: the instance
-- $2 bigint: the newest entry to read
-- $3 bigint: the most entries to read
select newest.id, newest.fsm, newest.fsm_version, newest.step, newest.attempt, newest.outcome,
       newest.next_step, newest.error, newest.state::text,
       (extract(epoch from newest.started_at) * 1000000)::bigint as started_at,
       (extract(epoch from newest.ended_at) * 1000000)::bigint as ended_at,
       newest.worker
from (
    select h.*
    from gen_durable.history h
    where h.instance_id = $1::bigint and h.id <= $2::bigint
    order by h.id desc
    limit $3::bigint
) as newest
order by newest.id
