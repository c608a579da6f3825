-- Gives each bucket for which a row waits a time of its next look, if it has none. The service
-- `limits` runs it. No statement of the engine leaves a bucket so; a hand that deletes rows of
-- `limit_buckets` does.
--
-- Invariant: whatever happened to a bucket, the rows that wait for it come in within minutes.
with recursive waited (bucket) as (
    -- 1. The buckets for which rows wait: one descent of the index for each.
    select (
        select i.limited_by
        from gen_durable.instances i
        where i.blocked_by & 16 = 16 and i.limited_by > ''
        order by i.limited_by
        limit 1
    )
    union all
    select (
        select i.limited_by
        from gen_durable.instances i
        where i.blocked_by & 16 = 16 and i.limited_by > w.bucket
        order by i.limited_by
        limit 1
    )
    from waited w
    where w.bucket is not null
)
insert into gen_durable.limit_buckets as b (bucket, limit_name, wakes_at)
select w.bucket, pg_catalog.split_part(w.bucket, pg_catalog.chr(31), 1),
       (extract(epoch from gen_durable.now()) * 1000000)::bigint
from waited w
left join gen_durable.limit_buckets known on known.bucket = w.bucket
where w.bucket is not null and known.wakes_at is null
order by w.bucket
on conflict (bucket) do update
set wakes_at = coalesce(b.wakes_at, excluded.wakes_at),
    waits = b.waits + 1
