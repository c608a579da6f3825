-- Begins a transaction that only looks. Looks at the fleet and those of the doctor run in one.
--
-- Invariant: each statement ends after five seconds, whatever it finds, and waits for no lock
-- longer than a second. None is compiled: the planner does not know how few rows a look takes, and
-- compiling takes a hundred times as long as looking.
begin isolation level read committed read only; set local statement_timeout = '5s'; set local lock_timeout = '1s'; set local jit = off
