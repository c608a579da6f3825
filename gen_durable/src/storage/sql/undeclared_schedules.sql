-- Finds schedules that no living worker declares, up to a hundred. Engines log them.
select s.name
from gen_durable.schedules s
where not exists (
    select from gen_durable.declarations d
    join gen_durable.workers w on w.id = d.worker
    where d.kind = 'schedule' and d.name = s.name and w.lease_expires_at > gen_durable.now()
)
order by s.name
limit 100
