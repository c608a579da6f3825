-- Has the buckets of limits looked at now, as the bounds have changed. The limiter runs it.
--
-- Invariant: it waits for no lock. A bucket that is locked is being looked at, or asked, under the
-- new bounds or a moment before them; a later look is due within seconds in any case.
--
-- $1 text[]: the limits
update gen_durable.limit_buckets b
set wakes_at = c.now
from (select (extract(epoch from gen_durable.now()) * 1000000)::bigint as now) as c
where b.bucket = any (array(
    select w.bucket
    from gen_durable.limit_buckets w
    where w.wakes_at > 0 and w.limit_name = any ($1::text[])
    for no key update skip locked
)) and b.wakes_at > c.now
