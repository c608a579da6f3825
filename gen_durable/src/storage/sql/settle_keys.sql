-- Notes that the partition keys of ended instances are freed, in the transaction that has freed
-- them (unblock_partitions.sql). The service `debts` runs it.
--
-- Invariant: it waits for no lock: a row that another transaction has locked is left for later, and
-- its key is freed once more.
--
-- $1 bigint[]: the ended instances
update gen_durable.instances i
set owes = nullif(i.owes & ~2, 0)
where i.id = any (array(
    select s.id
    from gen_durable.instances s
    where s.id = any ($1::bigint[]) and coalesce(s.owes, 0) & 2 = 2
    for no key update skip locked
))
