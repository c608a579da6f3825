-- The isolation level of a transaction that says none.
select current_setting('default_transaction_isolation')
