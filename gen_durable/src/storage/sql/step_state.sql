-- Tells why commit_step.sql has not applied an outcome: `ended` if the transaction is not the one
-- that the engine began, `level` if the step has changed its isolation level, `lost` if the worker
-- does not own the row any more.
--
-- $1 text: the level at which the transaction began
select case
    when pg_catalog.current_setting('gen_durable.step', true) is distinct from 'open' then 'ended'
    when pg_catalog.current_setting('transaction_isolation') <> $1::text then 'level'
    else 'lost'
end
