-- Begins a transaction that Postgres ends by itself if its client falls silent in the middle of it: a
-- process that is stopped, a host that is gone. Its locks would hold others up for as long as the
-- network needs to notice, which may be hours.
begin; set local idle_in_transaction_session_timeout = '10s'
