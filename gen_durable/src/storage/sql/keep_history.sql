-- Adds the partitions of the coming days to the history, and removes what is too old. A maintenance
-- service runs it. The answer says if there is more to do: `more`, `locked` or `idle`.
--
-- Invariant: no commit fails by it, and none waits longer than 50 ms.
--
-- $1 bigint: the microseconds for which the history is kept; null keeps it for ever
select gen_durable.keep_history($1::bigint * interval '1 microsecond')
