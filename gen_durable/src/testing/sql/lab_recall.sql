-- Has a row that was lost with its worker run again at once. An engine may let a row wait that was
-- lost several times in a row.
--
-- $1 bigint: the instance
update gen_durable.instances i
set eligible_at = least(i.eligible_at, gen_durable.now())
where i.id = $1::bigint and i.status = 'runnable'
