-- Begins a transaction that depends on no default of the database's.
--
-- After a lock that it waited for, a statement must see what the lock's last holder committed: under a
-- higher isolation level it would not. Postgres ends the transaction by itself if its client falls silent
-- in the middle of it: a process that is stopped, a host that is gone. Its locks would hold others up
-- for as long as the network needs to notice, which may be hours. And no statement waits for a lock for
-- longer than a second: who has it may be somebody's open transaction.
begin isolation level read committed; set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '1s'
