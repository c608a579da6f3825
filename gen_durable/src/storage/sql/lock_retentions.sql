-- Lets one engine at a time state its retentions. A statement does not see what another one has not
-- committed: of two engines that each forget what the other one states, neither would find it.
select pg_catalog.pg_advisory_xact_lock(5299)
