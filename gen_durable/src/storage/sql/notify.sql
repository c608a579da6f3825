-- Tells listening engines that there is work in the queues $1.
select pg_notify('gen_durable', q.queue) from unnest($1::text[]) as q (queue)
