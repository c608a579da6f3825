-- Tells listening engines that there is work in the queues $1.
select pg_catalog.pg_notify('gen_durable', q.queue) from pg_catalog.unnest($1::text[]) as q (queue)
