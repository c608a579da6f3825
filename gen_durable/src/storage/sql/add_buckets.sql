-- Adds the rows of buckets that nobody has asked before, or that were idle and pruned. The limiter
-- runs it for the buckets that take_turns.sql did not find.
--
-- Invariant: rows are added in their order, so two engines cannot wait for each other in a circle.
--
-- $1 text[]: the buckets
-- $2 text[]: their limits
insert into gen_durable.limit_buckets (bucket, limit_name)
select n.bucket, n.limit_name
from unnest($1::text[], $2::text[]) as n (bucket, limit_name)
order by n.bucket collate "C"
on conflict (bucket) do nothing
