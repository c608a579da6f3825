-- Reads which instance gets the report of an instance's end. A retry runs it before it locks both.
--
-- $1 bigint: the instance
select i.report_to from gen_durable.instances i where i.id = $1
