-- Deletes idle buckets, a page at a time: those that hold nothing, for which nothing waits, and
-- whose rate was not used for a minute. The service `limits` runs it.
--
-- Invariant: a bucket that is deleted would admit the same without its past.
--
-- $1 text:   looks at those after this bucket; empty for the first ones
-- $2 bigint: the most buckets
with page as materialized (
    select b.bucket
    from gen_durable.limit_buckets b
    where b.bucket > $1::text
    order by b.bucket
    limit $2::bigint
),
idle as materialized (
    select b.bucket
    from gen_durable.limit_buckets b
    where b.bucket = any (array(select p.bucket from page p)) and b.wakes_at is null
      and b.used_until < (extract(epoch from gen_durable.now()) * 1000000)::bigint - 60000000
      and not exists (
          select from unnest(b.workers, b.held) as s (worker, held)
          where s.held > 0 and gen_durable.holds(s.worker)
      )
    for update skip locked
),
deleted as (
    delete from gen_durable.limit_buckets b
    where b.bucket = any (array(select i.bucket from idle i))
)
-- The last bucket of a full page, after which the next one begins; null if there is none.
select case when pg_catalog.count(*) = $2::bigint then pg_catalog.max(p.bucket) end as last from page p
