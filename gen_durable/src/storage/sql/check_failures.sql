-- Finds machines and steps at which many rows have failed within the last hour. The doctor runs it.
--
-- Invariant: it examines the newest failed and cancelled rows of a hundred machines, up to five
-- hundred of each.
--
-- $1 bigint: the least number of rows to report
--
-- error: the beginning of the newest error
with recursive machines (fsm) as (
    -- 1. One descent of the index for each machine.
    (
        select i.fsm
        from gen_durable.instances i
        where i.status in ('failed', 'cancelled')
        order by i.fsm, i.id
        limit 1
    )
    union all
    select head.fsm
    from machines m
    cross join lateral (
        select i.fsm
        from gen_durable.instances i
        where i.status in ('failed', 'cancelled') and i.fsm > m.fsm
        order by i.fsm, i.id
        limit 1
    ) as head
),
known as materialized (
    select m.fsm from machines m limit 100
)
select k.fsm, n.step, pg_catalog.count(*) as count, (pg_catalog.array_agg(n.id order by n.id desc))[1:5] as ids,
       (pg_catalog.array_agg(pg_catalog.left(n.last_error, 200) order by n.id desc))[1] as error
from known k
cross join lateral (
    select i.id, i.step, i.status, i.last_error, i.finished_at
    from gen_durable.instances i
    where i.status in ('failed', 'cancelled') and i.fsm = k.fsm
    order by i.id desc
    limit 500
) as n
where n.status = 'failed' and n.finished_at > gen_durable.now() - interval '1 hour'
group by k.fsm, n.step
having pg_catalog.count(*) >= $1::bigint
order by k.fsm, n.step
