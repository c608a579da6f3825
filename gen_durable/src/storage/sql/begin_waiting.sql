-- As begin.sql, for a transaction that waits for the row that it is about: whoever has it locked may keep it
-- for long, and others want to wait for theirs.
begin; set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '1s'
