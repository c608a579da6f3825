-- Finds the instances that get the reports of others' ends. A retry runs it before it locks all of
-- them.
--
-- $1 bigint[]: the instances that end
select i.id, i.report_to
from gen_durable.instances i
where i.id = any ($1::bigint[]) and i.report_to is not null
