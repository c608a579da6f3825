-- Finds lost claims: rows that a worker holds and does not know of. The answer to their claim was
-- lost with its connection, or their outcome was given up. The claimer runs it between its claims,
-- and a shutdown after the engine's runtime has ended.
--
-- Invariant: at most a batch of rows, in the order of their ids. Nothing is locked or changed.
--
-- $1 bigint:   the worker
-- $2 bigint[]: the rows that the worker knows
-- $3 bigint:   the most rows to return
with held as materialized (
    -- The rows of the worker, read by the lease index whatever the statistics say. The planner
    -- expects few rows of a range. With `=` it would expect all rows, if one worker held all of
    -- them when the statistics were taken.
    select i.id, i.fsm, i.fsm_version, i.revision, i.partition_key
    from gen_durable.instances i
    where i.locked_by between $1 and $1
      -- A cancelled row is no lost claim: its cancel is to be answered (answer_cancels.sql).
      and coalesce(i.owes, 0) & 4 = 0
)
select h.id, h.fsm, h.fsm_version, h.revision, h.partition_key
from held h
where h.id <> all ($2::bigint[])
order by h.id
limit $3
