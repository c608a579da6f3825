-- Finds the pauses that hold rows back. The doctor runs it.
--
-- Invariant: it examines at most a thousand pauses of scopes, and a thousand rows of each; and the
-- thousand oldest pauses of instances.
--
-- A row is about a queue, a machine or a step. A row with none of these is about all instances with
-- a pause of their own. `until` and `paused_at` are in microseconds since 1970. `paused_at` is the
-- earliest one if there are several pauses.
(
    select p.queue, p.fsm, p.step, p.actor, p.reason,
           case when pg_catalog.isfinite(p.until)
                then (extract(epoch from p.until) * 1000000)::bigint end as until,
           (extract(epoch from p.paused_at) * 1000000)::bigint as paused_at,
           held.count, held.ids
    from (
        select s.*
        from gen_durable.pauses s
        where s.instance_id is null and (s.until is null or s.until > gen_durable.now())
        order by s.id
        limit 1000
    ) as p
    cross join lateral (
        select pg_catalog.count(*) as count, (pg_catalog.array_agg(n.id order by n.id))[1:5] as ids
        from (
            select i.id
            from gen_durable.instances i
            where i.paused_by = p.id and i.status = 'runnable'
            order by i.paused_by, i.id
            limit 1001
        ) as n
    ) as held
    where held.count > 0
)
union all
(
    select null, null, null, null, null, null,
           (extract(epoch from pg_catalog.min(n.paused_at)) * 1000000)::bigint,
           pg_catalog.count(*), (pg_catalog.array_agg(n.instance_id order by n.id))[1:5]
    from (
        select p.id, p.instance_id, p.paused_at
        from gen_durable.pauses p
        where p.instance_id is not null and (p.until is null or p.until > gen_durable.now())
        order by p.id
        limit 1001
    ) as n
    -- An instance that has ended keeps its pause until it is deleted. Each is looked up by itself:
    -- a join that was planned when the table was empty would read all of it.
    where (
        select i.status from gen_durable.instances i where i.id = n.instance_id
    ) in ('runnable', 'executing', 'awaiting_signal')
    having pg_catalog.count(*) > 0
)
