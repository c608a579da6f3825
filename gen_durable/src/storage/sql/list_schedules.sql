-- Lists schedules by their names, with what is known of each. Calls of operators run it.
--
-- $1 text:   lists those after this name; empty for the first ones
-- $2 bigint: the most schedules
-- $3 text:   the only name, or null
--
-- The times are in microseconds since 1970.
select s.name, s.body, s.fsm,
       (extract(epoch from s.next_at) * 1000000)::bigint as next_at,
       (extract(epoch from s.last_at) * 1000000)::bigint as last_at,
       s.last_id,
       (extract(epoch from s.waiting_at) * 1000000)::bigint as waiting_at,
       (extract(epoch from s.asked_at) * 1000000)::bigint as asked_at,
       s.last_error,
       (extract(epoch from s.failed_at) * 1000000)::bigint as failed_at,
       case when p.paused then (extract(epoch from s.paused_at) * 1000000)::bigint end as paused_at,
       case when p.paused then (extract(epoch from s.paused_until) * 1000000)::bigint end as paused_until,
       case when p.paused then s.paused_by end as paused_by,
       case when p.paused then s.pause_reason end as pause_reason,
       array(
           -- The living workers that declare it, the text in force first.
           select w.id
           from gen_durable.declarations d
           join gen_durable.workers w on w.id = d.worker
           where d.kind = 'schedule' and d.name = s.name and w.lease_expires_at > gen_durable.now()
           order by d.appeared_at desc, w.id
       ) as declared_by
from gen_durable.schedules s
cross join lateral (
    select coalesce(s.paused_until > gen_durable.now(), s.paused_at is not null) as paused
) as p
where s.name > $1::text and ($3::text is null or s.name = $3::text)
order by s.name
limit $2::bigint
