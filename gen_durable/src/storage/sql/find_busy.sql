-- Finds runnable or executing instances of a filter, the newest first. Lists and counts run it.
--
-- Invariant: it examines a bounded number of rows, and finds all that fit unless it says that there
-- are more than it may examine. A runnable row is in one of five indexes: the claim's, that of rows
-- blocked behind their key, that of paused rows, that of rows that wait for a limit, or that of
-- rows for which an engine has something to do.
--
-- $1 bigint: the id before which to look
-- $2 bigint: the most instances to find
-- $3 text:   their machine; here and below null for any
-- $4 text:   their status: `runnable` or `executing`
-- $5 text:   their step
-- $6 text:   their queue
-- $7 int:    their version
-- $8 text:   their partition key
-- $9 text:   their unique key, whether they hold it or not
-- $10 bigint: the time from which on they were changed last, in microseconds since 1970
-- $11 bigint: the time before which they were changed last
with busy as materialized (
    -- 1. The rows of the status, in the order of an index that has little else. The order makes
    --    Postgres take that index, whatever the statistics say. The number is not a parameter, so
    --    that the planner knows it.
    (
        select i.id, i.fsm, i.status, i.step, i.queue, i.fsm_version, i.partition_key, i.unique_key,
               i.updated_at
        from gen_durable.instances i
        where $4::text = 'executing' and i.locked_by is not null
        order by i.locked_by
        limit 5001
    )
    union all
    (
        select i.id, i.fsm, i.status, i.step, i.queue, i.fsm_version, i.partition_key, i.unique_key,
               i.updated_at
        from gen_durable.instances i
        where $4::text = 'runnable' and i.status = 'runnable' and i.blocked_by = 0
        order by i.queue, i.fsm, i.fsm_version, i.priority, i.eligible_at, i.id
        limit 5001
    )
    union all
    (
        select i.id, i.fsm, i.status, i.step, i.queue, i.fsm_version, i.partition_key, i.unique_key,
               i.updated_at
        from gen_durable.instances i
        where $4::text = 'runnable' and i.blocked_by & 1 = 1
        order by i.partition_key, i.queue, i.fsm, i.fsm_version, i.priority, i.eligible_at, i.id
        limit 5001
    )
    union all
    (
        select i.id, i.fsm, i.status, i.step, i.queue, i.fsm_version, i.partition_key, i.unique_key,
               i.updated_at
        from gen_durable.instances i
        where $4::text = 'runnable' and i.owes is not null
          and i.blocked_by <> 0 and i.blocked_by & 29 = 0
        order by i.id
        limit 5001
    )
    union all
    (
        select i.id, i.fsm, i.status, i.step, i.queue, i.fsm_version, i.partition_key, i.unique_key,
               i.updated_at
        from gen_durable.instances i
        where $4::text = 'runnable' and i.status = 'runnable' and i.paused_by is not null
          and i.blocked_by & 1 = 0
        order by i.paused_by, i.id
        limit 5001
    )
    union all
    (
        -- The bits 16, and perhaps 2. The index itself leaves out those that are paused as well, of
        -- which there may be many.
        select i.id, i.fsm, i.status, i.step, i.queue, i.fsm_version, i.partition_key, i.unique_key,
               i.updated_at
        from gen_durable.instances i
        where $4::text = 'runnable' and i.blocked_by & 16 = 16
          and i.blocked_by between 16 and 18 and i.blocked_by & 1 = 0
        order by i.limited_by, i.blocked_by, i.priority, i.eligible_at, i.id
        limit 5001
    )
)
-- 2. The instances that fit, in one array. `more` is true if not all were examined.
select array(
           select b.id
           from busy b
           where b.id < $1::bigint
             and b.status = $4::text
             and ($3::text is null or b.fsm = $3::text)
             and ($5::text is null or b.step = $5::text)
             and ($6::text is null or b.queue = $6::text)
             and ($7::int is null or b.fsm_version = $7::int)
             and ($8::text is null or b.partition_key = $8::text)
             and ($9::text is null or b.unique_key = $9::text)
             and ($10::bigint is null or b.updated_at >= timestamptz 'epoch' + $10::bigint * interval '1 microsecond')
             and ($11::bigint is null or b.updated_at < timestamptz 'epoch' + $11::bigint * interval '1 microsecond')
           order by b.id desc
           limit $2::bigint
       ) as ids,
       (select pg_catalog.count(*) from busy b) > 5000 as more
