-- Claims runnable rows for the worker $1: up to $3 rows in each queue of $2, of the machines $4 in
-- the versions $5; the machines in $6 have an inbox to load.
--
-- A scan that walks the queue in (priority, eligible_at) order would have to step over every row
-- that is scheduled for later at a more urgent priority, and over every row of an unknown machine.
-- So the groups (queue, machine, version, priority) that exist are found first, each by one
-- descent of the index, and only the heads of the groups are read.
--
-- A row with a partition key is not claimed here but returned as a candidate.
with recursive groups (queue, wanted, fsm, fsm_version, priority) as (
    select q.queue, q.wanted, k.fsm, k.fsm_version, head.priority
    from unnest($2::text[], $3::bigint[]) as q (queue, wanted)
    cross join unnest($4::text[], $5::int[]) as k (fsm, fsm_version)
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = q.queue and i.fsm = k.fsm and i.fsm_version = k.fsm_version
          and i.status = 'runnable' and not i.blocked
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
    union all
    select g.queue, g.wanted, g.fsm, g.fsm_version, head.priority
    from groups g
    cross join lateral (
        select i.priority
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority > g.priority
          and i.status = 'runnable' and not i.blocked
        order by i.queue, i.fsm, i.fsm_version, i.priority
        limit 1
    ) as head
),
ready as (
    select g.*, row_number() over (
        partition by g.queue order by g.priority, head.eligible_at, head.id
    ) as place
    from groups g
    cross join lateral (
        select i.eligible_at, i.id
        from gen_durable.instances i
        where i.queue = g.queue and i.fsm = g.fsm and i.fsm_version = g.fsm_version
          and i.priority = g.priority
          and i.status = 'runnable' and not i.blocked and i.eligible_at <= now()
        order by i.eligible_at, i.id
        limit g.wanted
    ) as head
),
shares as (
    select queue, fsm, fsm_version, priority, count(*) as wanted
    from ready
    where place <= wanted
    group by queue, fsm, fsm_version, priority
),
-- Rows that another claim has locked are skipped and the next ones taken, so that workers do not
-- wait for each other.
candidates as materialized (
    select row.id, row.partition_key, row_number() over (
        order by row.priority, row.eligible_at, row.id
    ) as place
    from shares s
    cross join lateral (
        select i.id, i.partition_key, i.priority, i.eligible_at
        from gen_durable.instances i
        where i.queue = s.queue and i.fsm = s.fsm and i.fsm_version = s.fsm_version
          and i.priority = s.priority
          and i.status = 'runnable' and not i.blocked and i.eligible_at <= now()
        order by i.eligible_at, i.id
        limit s.wanted
        for no key update skip locked
    ) as row
    where exists (
        select from gen_durable.workers w where w.id = $1 and w.lease_expires_at > now()
    )
),
claimed as (
    update gen_durable.instances i
    set status = 'executing',
        locked_by = $1,
        revision = i.revision + 1,
        unique_scope = case when 'executing' = any (i.unique_scope) then i.unique_scope end,
        updated_at = now()
    where i.id = any (array(select c.id from candidates c where c.partition_key is null))
    returning i.*
)
select c.id,
       c.partition_key,
       i.fsm,
       i.fsm_version,
       i.step,
       i.state::text,
       i.queue,
       i.attempt,
       i.revision,
       i.awaits = '{}' as timed_out,
       case when i.fsm = any ($6::text[]) then (
           select json_agg(json_build_array(s.id, s.name, s.payload) order by s.id)::text
           from gen_durable.signals s
           where s.target_id = i.id
       ) end as inbox
from candidates c
left join claimed i on i.id = c.id
order by c.place
