-- Deletes up to $2 instances that ended more than $1 microseconds ago, oldest first.
delete from gen_durable.instances i
where i.id = any (array(
    select old.id
    from gen_durable.instances old
    where old.finished_at < now() - $1 * interval '1 microsecond'
    order by old.finished_at
    limit $2
    for update skip locked
))
