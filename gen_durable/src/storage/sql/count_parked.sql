-- Counts the signals that are there for rows that this transaction parked until several have come.
-- It wakes a row that has enough, and notes for the others how many more they wait for. It is the
-- second half of such a park: it runs after commit.sql, or commit_step.sql, and before the
-- transaction delivers signals. The answer has the queues of the woken rows.
--
-- Invariant: a row wakes with the last signal that it waits for. The rows are locked since the
-- commit's statement, and this snapshot is younger than that lock. A delivery locks the row too:
-- either it committed before, and its signal is counted here, or it comes after, and lowers the
-- number (deliver.sql).
--
-- $1 bigint[]: the parked rows
-- $2 bigint[]: the number of signals that each waits for
-- $3 text[]:   their name
with awaited as materialized (
    -- 1. The rows, each with the number of signals that are still to come.
    select w.id, w.wanted - (
        select pg_catalog.count(*)
        from gen_durable.signals s
        where s.target_id = w.id and s.name = w.name
    ) as more
    from unnest($1::bigint[], $2::bigint[], $3::text[]) as w (id, wanted, name)
),
woken as (
    -- 2. Those that have enough, made runnable.
    update gen_durable.instances i
    set status = 'runnable',
        awaits = null,
        awaits_more = null,
        wake_at = null,
        eligible_at = gen_durable.now(),
        unique_released = i.unique_released or 'runnable' <> all (i.unique_scope)
    where i.id = any (array(select a.id from awaited a where a.more <= 0))
    returning i.queue
),
noted as (
    -- 3. The numbers of the others, as in deliver.sql.
    update gen_durable.instances i
    set awaits_more = (c.more -> i.id::text)::int
    from (
        select pg_catalog.jsonb_object_agg(a.id, a.more) filter (where a.more > 0) as more from awaited a
    ) as c
    where i.id = any (array(select a.id from awaited a where a.more > 0))
)
select w.queue from woken w
