-- Sets up a connection for the transactions of steps.
--
-- Invariant: a step writes nothing outside of the transaction that the engine began. A step may end
-- that transaction: by `rollback`, or by a nested transaction whose BEGIN failed. Each later
-- statement would be a transaction of its own, and its rows would stay when the step runs again.
set default_transaction_read_only = on
