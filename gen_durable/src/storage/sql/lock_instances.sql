-- Locks the rows that the outcomes of a batch may have to wait for: the targets of their signals
-- and reports. For outcomes that wait for their own rows as well, it locks these too. The flusher
-- runs it before commit.sql.
--
-- Invariant: all transactions that wait for rows lock them in the order of their ids, so two that
-- need several of them cannot wait for each other in a circle. After this, commit.sql waits for no
-- row. The answer has the ids of the rows that were left out.
--
-- $1 bigint[]: the instances
-- $2 boolean:  true if rows that other transactions have locked are left out: the outcomes that
--              need them must not hold up the others
-- $3 text:     how long the transaction waits for a lock from here on: for these rows, and for a
--              unique key that another transaction is inserting; null leaves its own timeout
with lock_timeout_set as materialized (
    -- 1. The lock timeout. Its count is read below (`>= 0` is always true), so it is set before a
    --    lock is waited for.
    select pg_catalog.set_config('lock_timeout', $3::text, true) from (select) as one
    where $3::text is not null
),
waited_for as materialized (
    -- 2. All rows, if locks are waited for.
    select i.id
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and not $2 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update
),
free as materialized (
    -- 3. The rows that are free, if locked ones are left out.
    select i.id
    from gen_durable.instances i
    where i.id = any ($1::bigint[]) and $2 and (select pg_catalog.count(*) from lock_timeout_set) >= 0
    order by i.id
    for no key update skip locked
)
select i.id
from gen_durable.instances i
where i.id = any ($1::bigint[])
  and i.id <> all (array(select w.id from waited_for w union all select f.id from free f))
