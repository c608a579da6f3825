-- Tells if the transaction is still the one that the engine began for the step. The engine asks
-- when commit_step.sql has found no row.
select pg_catalog.current_setting('gen_durable.step', true) is not distinct from 'open'
