-- Inserts an instance that goes on from an entry of another one's history, and writes that into the
-- audit. Calls of operators run it.
--
-- Invariant: the new instance has the step and the state that the entry recorded, and nothing else
-- of the old one but its queue, priority and partition key.
--
-- $1 bigint: the instance
-- $2 bigint: the entry of its history
-- $3 text:   the machine that it must be of; null for any
-- $4 text:   the name of the operator; null for the session's role
-- $5 text:   the reason, or null
with entry as materialized (
    -- 1. The entry.
    select h.fsm, h.fsm_version, h.next_step, h.state
    from gen_durable.history h
    where h.instance_id = $1::bigint and h.id = $2::bigint
),
deed as materialized (
    -- 2. The deed:
    --    gone:      the history does not have the entry, or not any more
    --    foreign:   it is of another machine
    --    ended:     the instance ended with it, so there is no step to go on from
    --    stateless: the history has no state
    --    forked:    the instance is inserted
    select e.*, case
        when e.fsm is null then 'gone'
        when e.fsm <> $3::text then 'foreign'
        when e.next_step is null then 'ended'
        when e.state is null then 'stateless'
        else 'forked'
    end as deed
    from (select) as one
    left join entry e on true
),
forked as (
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, priority, partition_key)
    select d.fsm, d.fsm_version, d.next_step, d.state,
           coalesce(i.queue, m.queue, 'default'), coalesce(i.priority, 0), i.partition_key
    from deed d
    left join gen_durable.instances i on i.id = $1::bigint
    left join gen_durable.machines m on m.fsm = d.fsm and m.fsm_version = d.fsm_version
    where d.deed = 'forked'
    returning id, queue, fsm
),
noted as (
    -- 3. The audit: of the old instance, and of the new one.
    insert into gen_durable.audit (actor, action, reason, instance_id, fsm)
    select coalesce($4::text, session_user), n.action, $5::text, n.id, f.fsm
    from forked f
    cross join lateral (values ('fork', $1::bigint), ('forked', f.id)) as n (action, id)
)
-- 4. One row: the new instance and its queue, or the deed for which there is none.
select d.deed, d.fsm, f.id, f.queue
from deed d
left join forked f on true
