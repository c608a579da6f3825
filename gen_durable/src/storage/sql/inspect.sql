-- What became of rows that a commit did not find as its own.
select i.id, i.status, i.locked_by, i.revision
from gen_durable.instances i
where i.id = any ($1::bigint[])
